"""What the input pipeline costs: training steps from 48 x 48 bytes, against a bare fit on arrays that are ready.

    python -m benchmarks.finetune_speed [--sizes "224:8:1 64:16:2"] [--network resnet50] [--rounds 3] [--json]
                                        [--precision mixed_bfloat16] [--peak TERAFLOPS] [--augmentation albanie]

One network, two training models around it: `fit` on float32 arrays of the network's own input size, preprocessed
beforehand, and `fit` on the Feed with the Augmentation layer. They run in turn in one process, and the median rounds
are compared: the pipeline's share of a step (target: under 5 %) by the clock and by the processor's, which other
programs on the machine disturb less, and the share of the time that went into making batches, which is the most that
steps can have waited. KERAS_BACKEND chooses the backend.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks import harness
from benchmarks.harness import Row

#: Side of the input, images a batch, steps a round: the published size, and one that small experiments use. Each
#: size costs half a minute before its first step, in which TensorFlow makes two graphs.
SIZES = "224:8:1 64:16:2"


def measure(
    sizes: str = SIZES, network: str = "resnet50", rounds: int = 3, augmentation: str = "albanie",
    precision: str = "float32", peak: float = 0.0,
) -> dict[str, list[Row]]:  # fmt: skip
    """Each size; ``peak`` is the device's in TFLOP/s at that precision, 0 where it is not known."""
    import keras

    keras.config.set_dtype_policy(precision)
    rows = []
    for text in sizes.split():
        side, batch, steps = map(int, text.split(":"))
        rows.append(_both(network, side, batch, rounds, steps, augmentation))
        if peak:
            rows[-1]["of peak, %"] = 100 * rows[-1]["TFLOP/s"] / peak
    return {f"{network}, {keras.backend.backend()}, {precision}, {augmentation}": rows}


def _both(network: str, size: int, batch: int, rounds: int, steps: int, recipe: str) -> Row:
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
        "size": size, "batch": batch, "bare fit, images/s": count / theirs.seconds,
        "from bytes, images/s": count / ours.seconds,
        "pipeline's share, %": 100 * (1 - theirs.seconds / ours.seconds),
        "of the processor, %": 100 * (1 - theirs.processor / ours.processor),
        "making batches, %": 100 * statistics.median(waits[1:]), "TFLOP/s": flops * count / ours.seconds / 1e12,
    }  # fmt: skip


class Took(NamedTuple):
    """Seconds by the clock, and of this process's threads on a processor (on a GPU: what it cost to keep it busy)."""

    seconds: float
    processor: float


def _took(side: Callable[[], None]) -> Took:
    wall, busy = time.perf_counter(), time.process_time()
    side()
    return Took(time.perf_counter() - wall, time.process_time() - busy)


def _alternating(rounds: int, ours: Callable[[], None], other: Callable[[], None]) -> tuple[Took, Took]:
    """The medians of both, in turn, each first in every other round; a round that compiles comes before."""
    found: tuple[list[Took], list[Took]] = [], []
    for number in range(rounds + 1):
        for place in (0, 1) if number % 2 else (1, 0):
            found[place].append(_took((ours, other)[place]))
    mine, theirs = (Took(*map(statistics.median, zip(*costs[1:], strict=True))) for costs in found)
    return mine, theirs


def forward_flops(model: Any) -> float:
    """Of one image, in convolutions and products of matrices: two a multiplication and addition."""
    total = 0.0
    for layer in model.layers:
        if (kernel := getattr(layer, "kernel", None)) is not None:
            total += 2.0 * float(np.prod(kernel.shape)) * float(np.prod(layer.output.shape[1:-1]))
    return total


if __name__ == "__main__":
    harness.command(measure)
