"""Seconds and peak memory of a full parity check, against the bare forward passes that it cannot do without.

    python -m benchmarks.parity_speed [--images 8] [--json]

The check: `ferplus verify parity` on TensorFlow, every layer, float64 and float32, every reference that is installed.
The alternative: the same images through the same two networks in both precisions, logits only, nothing compared.
Target: both networks within three minutes on two cores and 4 GiB.
"""

from __future__ import annotations

from benchmarks import harness
from benchmarks.harness import Row
from ferplus_keras.networks.architecture import NETWORKS


def measure(images: int = 8) -> dict[str, list[Row]]:
    """Both networks."""
    rows = []
    for network in NETWORKS:
        source, model = harness.standin(network), harness.WORK / f"{network}-standin.h5"
        harness.run("-m", "convert", source, model)
        floor = harness.child("parity_floor", model, source, images, KERAS_BACKEND="tensorflow")
        words = ("verify", "parity", model, "--against", source, "--n", images, "--json")
        check = harness.run("-m", *words, KERAS_BACKEND="tensorflow")
        model.unlink()
        rows.append(
            {"network": network, "check, s": check.seconds, "peak, GB": check.peak / 1e3,
             "bare forward passes, s": floor.seconds, "ratio": check.seconds / floor.seconds}
        )  # fmt: skip
    return {f"{images} images, every layer, float64 and float32": rows}


if __name__ == "__main__":
    harness.command(measure)
