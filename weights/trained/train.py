"""What trained the two large networks: one of this project's networks on FERPlus, by PyTorch, for a given time.

It does what ``ferplus finetune`` does with the recipe beside each network, without Keras, so that it runs where a GPU
has nothing but PyTorch. Images, warped images and the teachers' answers stay on the GPU. The schedule goes by the
clock, because the GPU was lent by the minute: the learning rate is a cosine over ``--seconds``, and ``--sizes`` says
until which share of them images have which size.

    python weights/trained/train.py --network wide --data fer2013 --seconds 60 --out runs/wide
    python weights/trained/train.py --network resnet50 --data fer2013 --start weights/trained/resnet50_ferplus \
        --teacher weights/trained/compact runs/wide/weights.pt --rate 0.0012 --sizes 0.2:128,0.5:176,1:224 \
        --seconds 350 --out runs/resnet50
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from convert.layouts import keras_layout, torch_layout
from ferplus_keras.dataset import load_ferplus
from ferplus_keras.files.network_folder import network_file
from ferplus_keras.finetune.examples import make_examples
from ferplus_keras.finetune.settings import DataSettings
from ferplus_keras.networks import architecture as arch
from ferplus_keras.networks.gates import Arrays, with_gates
from ferplus_keras.networks.preprocessing import PUBLISHED
from ferplus_keras.networks.torch_module import ReferenceNetwork

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MEAN = torch.tensor(PUBLISHED.mean, device=DEVICE).view(1, 3, 1, 1)
STEM, BLOCKS = arch.COMPACT_STEM, arch.COMPACT_BLOCKS
SMALL, FEATURES = 48, "pool5_7x7_s1"

#: The teacher's share of the loss; the norm that gradients are bounded to; images that are looked at together.
SHARE, CLIP, LOOK = 0.7, 5.0, 512


def table(name: str) -> arch.Architecture:
    """The layers of a large network, of the compact one, or of "wide", the compact one with twice the channels."""
    times = 2 if name == "wide" else 1
    arch.COMPACT_STEM = STEM * times
    arch.COMPACT_BLOCKS = tuple(replace(block, out=block.out * times) for block in BLOCKS)
    arch._table.cache_clear()
    return arch.architecture("compact" if name == "wide" else name, arch.classifier(8))


def network(name: str, dropout: float = 0.0) -> ReferenceNetwork:
    """The network of that name in PyTorch, for images of any size, its weights random."""
    layers = table(name)
    made = ReferenceNetwork(arch.with_dropout(layers, (FEATURES,), dropout) if dropout else layers)
    for title, module in list(made.named_modules()):
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif title.endswith("_increase_bn"):
            nn.init.zeros_(module.weight)
        elif isinstance(module, nn.AvgPool2d):
            setattr(made, title, nn.AdaptiveAvgPool2d(1))
    nn.init.normal_(made.classifier.weight, std=0.01)
    return made


def read(path: Path) -> tuple[str, Arrays]:
    """Network and arrays of a file of this program, or of the folder of a network that was trained here."""
    if path.suffix == ".pt":
        stored = {name: array.numpy() for name, array in torch.load(path, weights_only=True).items()}
    else:
        stored = load_file(network_file(path))
    layers = {name.replace("/", ".").rsplit(".", 1)[0] for name in stored}
    name = "senet50" if "conv2_1_1x1_up" in layers else "resnet50"
    if "conv1_3x3" in layers:
        width = next(array.size for array_name, array in stored.items() if array_name.startswith("conv1_3x3_bn"))
        name = "compact" if width == STEM else "wide"
    layout = (keras_layout if any("/" in each for each in stored) else torch_layout)(table(name))
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for slot in layout.values():
        arrays.setdefault(slot.layer, {})[slot.role] = slot.to_neutral(stored[slot.name]).astype(np.float32)
    return name, arrays


def filled(made: ReferenceNetwork, arrays: Arrays) -> ReferenceNetwork:
    """``made`` with ``arrays``; gates that they lack start open, as with ``ferplus finetune``."""
    arrays, counters = with_gates(arrays, made.architecture), dict(made.named_buffers())
    state = {name: each for name, each in counters.items() if name.endswith("num_batches_tracked")}
    for name, slot in torch_layout(made.architecture).items():
        state[name] = torch.from_numpy(slot.from_neutral(arrays[slot.layer][slot.role]))
    made.load_state_dict(state)
    return made


def uniform(count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return torch.rand(count, device=DEVICE) * (high - low) + low


@dataclass(frozen=True)
class Warp:
    """How a batch is changed: the same for the network and for its teachers. See ``finetune/augmentation.py``."""

    maps: Tensor  #: n x 2 x 3
    times: Tensor
    plus: Tensor
    erased: Tensor  #: n x 4: left, right, top, bottom; all 0 where nothing is erased

    @classmethod
    def drawn(cls, count: int, options: argparse.Namespace) -> Warp:
        def spread(reach: float) -> Tensor:
            return uniform(count, -reach, reach)

        angle, across, down = spread(options.rotation * math.pi / 180), spread(options.skew), spread(options.skew)
        cosine, sine, window = torch.cos(angle), torch.sin(angle), 1 / uniform(count, 0.8, 1.25)
        mirrored = 1 - 2 * (uniform(count) < 0.5).float()
        shift = [(1 - window) * spread(1) + 2 * options.shift * spread(1) for _ in "xy"]
        x = [(cosine - sine * down) * window * mirrored, (cosine * across - sine) * window, shift[0]]
        y = [(sine + cosine * down) * window * mirrored, (sine * across + cosine) * window, shift[1]]
        toned = (uniform(count) < 0.9).float()
        area, ratio = uniform(count, 0.02, 0.2), torch.exp(spread(math.log(1 / 0.3)))
        width, height = torch.sqrt(area * ratio).clamp(max=1), torch.sqrt(area / ratio).clamp(max=1)
        left, top = uniform(count) * (1 - width), uniform(count) * (1 - height)
        erased = torch.stack([left, left + width, top, top + height], 1) * (uniform(count) < 0.25)[:, None]
        return cls(
            torch.stack([torch.stack(x, 1), torch.stack(y, 1)], 1), 1 + toned * spread(options.contrast),
            toned * 255 * spread(0.3), erased,
        )  # fmt: skip

    def of(self, images: Tensor, size: int) -> Tensor:
        """``images``, n x 48 x 48 bytes, as the input of a network: n x 3 x size x size."""
        grid = functional.affine_grid(self.maps, [len(images), 1, size, size], align_corners=False)
        pixels = functional.grid_sample(images.float()[:, None], grid, padding_mode="border", align_corners=False)
        pixels = (pixels * self.times.view(-1, 1, 1, 1) + self.plus.view(-1, 1, 1, 1)).clamp(0, 255)
        at = ((torch.arange(size, device=DEVICE) + 0.5) / size)[None]
        left, right, top, bottom = self.erased.T[:, :, None]
        hidden = ((at >= top) & (at < bottom))[:, :, None] & ((at >= left) & (at < right))[:, None]
        return ((pixels - MEAN) * ~hidden[:, None]).contiguous(memory_format=torch.channels_last)


def plain(images: Tensor, size: int) -> Tensor:
    pixels = functional.interpolate(images.float()[:, None], (size, size), mode="bilinear", align_corners=False)
    return (pixels - MEAN).contiguous(memory_format=torch.channels_last)


class Average:
    """The running mean of a network's arrays, batch normalisation's statistics among them."""

    def __init__(self, made: nn.Module, share: float) -> None:
        self.arrays = [each for each in made.state_dict(keep_vars=True).values() if each.is_floating_point()]
        self.means = [each.detach().clone() for each in self.arrays]
        self.share = share

    @torch.no_grad()
    def update(self, step: int) -> None:
        share = min(self.share, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.means, [each.data for each in self.arrays], 1 - share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the network has the means."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for array, mean in zip(self.arrays, self.means, strict=True):
            kept = array.data.clone()
            array.data.copy_(mean)
            mean.copy_(kept)


def taught_by(paths: list[Path]) -> Callable[[Tensor, Warp], Tensor]:
    """What the teachers say of warped images, on average, of each image and of its mirror image."""
    teachers = []
    for path in paths:
        name, arrays = read(path)
        teacher = filled(network(name), arrays).to(DEVICE, memory_format=torch.channels_last).eval()
        teachers.append((teacher.requires_grad_(False), SMALL if name in ("compact", "wide") else 224))

    def said(images: Tensor, warp: Warp) -> Tensor:
        shown = {size: warp.of(images, size) for size in {size for _, size in teachers}}
        both = {size: torch.cat([seen, seen.flip(3)]) for size, seen in shown.items()}
        with torch.autocast(DEVICE, torch.bfloat16):
            each = [teacher(both[size]).float().softmax(1) for teacher, size in teachers]
        return torch.stack(each).mean(0).view(2, len(images), -1).mean(0)

    return said


def main() -> None:
    options = parsed()
    torch.manual_seed(options.seed)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    found = make_examples(
        load_ferplus(options.data), DataSettings(train_protocol="crossentropy", target="crossentropy"),
        limit=options.limit,
    )  # fmt: skip
    images, votes = torch.tensor(found.train.images).to(DEVICE), torch.tensor(found.targets.targets).to(DEVICE)
    shown, labels = torch.tensor(found.valid.images).to(DEVICE), torch.tensor(found.valid.labels).to(DEVICE)
    made = network(options.network, options.dropout)
    if options.start:
        made = filled(made, read(options.start)[1])
    made = made.to(DEVICE, memory_format=torch.channels_last)
    matrices = [each for each in made.parameters() if each.dim() > 1]
    vectors = [each for each in made.parameters() if each.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}], fused=DEVICE == "cuda"
    )
    average = Average(made, options.average)
    said = taught_by(options.teacher) if options.teacher else None
    history, steps = [], len(images) // options.batch
    step, loss_sum, order, began = 0, torch.zeros((), device=DEVICE), torch.arange(0), time.time()

    def look(size: int) -> float:
        made.eval()
        torch.backends.cudnn.benchmark = False
        with average.in_place(), torch.inference_mode(), torch.autocast(DEVICE, torch.bfloat16):
            answers = torch.cat([made(plain(part, size)).argmax(1) for part in shown.split(LOOK)])
        torch.backends.cudnn.benchmark = True
        made.train()
        return float((answers == labels).float().mean())

    made.train()
    while (share := (time.time() - began) / options.seconds) < 1:
        if step % steps == 0:
            order = torch.randperm(len(images), device=DEVICE)
        size = next(size for until, size in options.sizes if share < until)
        warm = options.warmup
        rate = share / warm if share < warm else 0.5 * (1 + math.cos(math.pi * (share - warm) / (1 - warm)))
        for group in optimizer.param_groups:
            group["lr"] = options.rate * rate
        rows = order[step % steps * options.batch :][: options.batch]
        with torch.no_grad():
            warp, target = Warp.drawn(len(rows), options), votes[rows]
            seen = warp.of(images[rows], size)
            if said:
                target = (1 - SHARE) * target + SHARE * said(images[rows], warp)
        with torch.autocast(DEVICE, torch.bfloat16):
            logits = made(seen)
        loss = -(target * functional.log_softmax(logits.float(), 1)).sum(1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(made.parameters(), CLIP)
        optimizer.step()
        average.update(step)
        loss_sum += loss.detach()
        step += 1
        if step % 10 == 0 and DEVICE == "cuda":
            torch.cuda.synchronize()  # or the clock would run behind
        if step % steps == 0:
            valid = look(size) if len(history) % 2 else None
            history.append((len(history) + 1, size, options.rate * rate, float(loss_sum) / steps, valid))
            loss_sum.zero_()
            print(*history[-1], flush=True)
    print(f"{step} steps in {time.time() - began:.0f} s; Valid {look(options.sizes[-1][1]):.2%}; in {options.out}")
    options.out.mkdir(parents=True, exist_ok=True)
    with average.in_place():
        state = {name: each.cpu() for name, each in made.state_dict().items() if each.is_floating_point()}
        torch.save(state, options.out / "weights.pt")  # here: on a CPU, `state` is the network's own memory
    with (options.out / "history.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("epoch", "size", "learning_rate", "loss", "val_accuracy"), *history])


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", required=True, choices=("resnet50", "senet50", "compact", "wide"))
    parser.add_argument("--data", required=True, type=Path, help="FERPlus, as `ferplus finetune` takes it")
    parser.add_argument("--out", required=True, type=Path, help="a folder, for weights.pt and history.csv")
    parser.add_argument("--seconds", required=True, type=float)
    parser.add_argument("--start", type=Path, help="weights to start from")
    parser.add_argument("--teacher", type=Path, nargs="+", default=[], help="networks to learn from")
    parser.add_argument("--sizes", default=[(1.0, SMALL)], type=stages, help="SHARE:SIZE,... (default: 1:48)")
    parser.add_argument("--limit", type=int, help="at most this many images of each split")
    for name, value in (
        ("rate", 0.0028), ("warmup", 0.01), ("average", 0.998), ("dropout", 0.25), ("rotation", 20.0), ("shift", 0.12),
        ("skew", 0.12), ("contrast", 0.3), ("batch", 256), ("seed", 1),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"(default: {value})")
    return parser.parse_args()


def stages(text: str) -> list[tuple[float, int]]:
    return [(float(until), int(size)) for until, size in (each.split(":") for each in text.split(","))]


if __name__ == "__main__":
    main()
