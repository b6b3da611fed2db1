"""What the input pipeline costs: training steps from 48 x 48 bytes, against a bare fit on arrays that are ready.

    python -m benchmarks.finetune_speed [--size 224:8:2 ...] [--network resnet50] [--rounds 3] [--json]
                                        [--precision mixed_bfloat16] [--peak TERAFLOPS] [--augmentation albanie]

One network, two training models around it: `fit` on float32 arrays of the network's own input size, preprocessed
beforehand, and `fit` on the Feed with the Augmentation layer. They run in turn in one process, and the median rounds
are compared: the pipeline's share of a step (target: under 5 %) by the clock and by the processor's, which other
programs on the machine disturb less, and the share of the time that went into making batches, which is the most that
steps can have waited. KERAS_BACKEND chooses the backend. The exit status does not depend on any of it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.measure import machine

#: Side of the input, images a batch, steps a round: the published size, and one that small experiments use. Each
#: size costs half a minute before its first step, in which TensorFlow makes two graphs.
SIZES = ("224:8:1", "64:16:2")


def measure(network: str, size: int, batch: int, rounds: int, steps: int, recipe: str) -> dict[str, Any]:
    """Images per second of both sides, alternating."""
    import keras

    from ferplus_keras.applications.models import build
    from ferplus_keras.finetune.augmentation import Augmentation
    from ferplus_keras.finetune.feeding import Feed, for_keras
    from ferplus_keras.finetune.recipe import load_recipe

    generator = np.random.default_rng(0)
    count = steps * batch
    images = generator.integers(0, 256, (count, 48, 48), dtype=np.uint8)
    targets = np.eye(8, dtype=np.float32)[generator.integers(0, 8, count)]
    weights = np.ones(count, np.float32)

    net = build(network, input_shape=(size, size, 3), classifier_activation=None)
    layer = Augmentation(load_recipe(recipe).augmentation, size, seed=0)
    whole = keras.Sequential([keras.Input((48, 48), dtype="uint8"), layer, net])
    bare = keras.Sequential([keras.Input((size, size, 3)), net])
    for model in (bare, whole):
        model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), keras.losses.CategoricalCrossentropy(from_logits=True))
    ready = keras.ops.convert_to_numpy(layer(images))
    feed = Feed(images, targets, weights, batch, seed=0)
    floats = Feed(ready, targets, weights, batch)
    waits: list[float] = []

    def from_arrays() -> None:
        bare.fit(for_keras(floats), shuffle=False, verbose=0)

    def from_bytes() -> None:
        feed.epoch += 1
        whole.fit(for_keras(feed), shuffle=False, verbose=0)
        waits.append(feed.waiting)

    ours, theirs = _alternating(rounds, from_bytes, from_arrays)
    flops = 3 * forward_flops(net)  # backward: once for the inputs' gradients, once for the weights'
    return {
        "network": network, "size": size, "batch": batch, "augmentation": recipe,
        "images_per_second": count / ours.seconds, "bare_images_per_second": count / theirs.seconds,
        "pipeline_share": 1 - theirs.seconds / ours.seconds,
        "pipeline_processor_share": 1 - theirs.processor / ours.processor,
        "waiting_share": statistics.median(waits[1:]), "teraflops": flops * count / ours.seconds / 1e12,
    }  # fmt: skip


@dataclass(frozen=True)
class Took:
    """Seconds by the clock, and of this process's threads on a processor (on a GPU: what it cost to keep it busy)."""

    seconds: float
    processor: float


def _took(side: Callable[[], None]) -> Took:
    wall, busy = time.perf_counter(), time.process_time()
    side()
    return Took(time.perf_counter() - wall, time.process_time() - busy)


def _alternating(rounds: int, ours: Callable[[], None], other: Callable[[], None]) -> tuple[Took, Took]:
    """The medians of both, in turn, each first in every other round; a round that compiles comes before."""
    pairs = []
    for number in range(rounds + 1):
        if number % 2:
            one = _took(ours)
            pairs.append((one, _took(other)))
        else:
            one = _took(other)
            pairs.append((_took(ours), one))

    def median(costs: list[Took]) -> Took:
        return Took(statistics.median(cost.seconds for cost in costs), statistics.median(c.processor for c in costs))

    return median([our for our, _ in pairs[1:]]), median([their for _, their in pairs[1:]])


def forward_flops(model: Any) -> float:
    """Of one image, in convolutions and products of matrices: two a multiplication and addition."""
    total = 0.0
    for layer in model.layers:
        if (kernel := getattr(layer, "kernel", None)) is not None:
            places = layer.output.shape[1:-1]
            total += 2.0 * float(np.prod(kernel.shape)) * float(np.prod(places))
    return total


def as_text(result: dict[str, Any], peak: float | None) -> str:
    lines = [
        f"{result['machine']}; {result['backend']}, {result['precision']}",
        "network    size  batch   bare fit   from bytes   pipeline's share: time, processor   making batches   TFLOP/s",
    ]
    for row in result["rows"]:
        of_peak = f" ({row['teraflops'] / peak:.0%} of peak)" if peak else ""
        lines.append(
            f"{row['network']:<10} {row['size']:>4} {row['batch']:>6} {row['bare_images_per_second']:>8.1f}/s"
            f" {row['images_per_second']:>10.1f}/s {row['pipeline_share']:>23.1%}"
            f" {row['pipeline_processor_share']:>11.1%} {row['waiting_share']:>16.2%} {row['teraflops']:>9.3f}{of_peak}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", metavar="SIDE:BATCH:STEPS", help=f"default: {' '.join(SIZES)}")
    parser.add_argument("--network", default="resnet50", choices=("resnet50", "senet50"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--augmentation", default="albanie", choices=("albanie", "wtomin"))
    parser.add_argument("--precision", default="float32", help="Keras's dtype policy, such as mixed_bfloat16")
    parser.add_argument("--peak", type=float, metavar="TERAFLOPS", help="the device's peak at that precision")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    start = time.perf_counter()
    import keras

    keras.config.set_dtype_policy(options.precision)
    rows = []
    for text in options.size or SIZES:
        size, batch, steps = map(int, text.split(":"))
        rows.append(measure(options.network, size, batch, options.rounds, steps, options.augmentation))
    result = {
        "machine": machine(), "backend": keras.backend.backend(), "precision": options.precision, "rows": rows,
    }  # fmt: skip
    print(json.dumps(result, indent=2) if options.json else as_text(result, options.peak))
    if not options.json:
        print(f"measured in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
