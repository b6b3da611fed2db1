"""On how many images of FERPlus's Valid (``albanie``) each runtime of an ONNX file decides otherwise than ONNX Runtime.

python -m benchmarks.decisions NETWORK.onnx [--data DIR]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from ferplus_keras.dataset import load_ferplus
from ferplus_keras.dataset.protocols import PROTOCOLS
from ferplus_keras.engines import open_engine
from ferplus_keras.engines.onnx_engine import RUNTIMES


def decisions(model: Path, data: str | None) -> str:
    """On how many images of Valid each runtime decides otherwise than ONNX Runtime, and how often it is right."""
    dataset = load_ferplus(data)
    targets = PROTOCOLS["albanie"].apply(dataset.votes)
    rows = [row for row in dataset.rows_of("val") if targets.kept[row]]
    found, lines = {}, [f"{model.name}, {len(rows)} images of Valid: decided otherwise, right, largest difference"]
    for runtime in RUNTIMES:
        engine = open_engine(model, runtime=runtime)
        side = (engine.takes.side,) * 2
        parts = (rows[start : start + 64] for start in range(0, len(rows), 64))
        found[runtime] = here = np.concatenate([
            engine.probabilities(np.stack([
                np.asarray(Image.fromarray(dataset.images[row]).convert("RGB").resize(side, Image.Resampling.BILINEAR))
                for row in part
            ])) for part in parts
        ])  # fmt: skip
        first = found[RUNTIMES[0]]
        changed, right = here.argmax(1) != first.argmax(1), here.argmax(1) == targets.labels[rows]
        lines.append(f"{engine.by:<28}{changed.sum():>5} {100 * changed.mean():6.2f} %"
                     f"{100 * right.mean():8.2f} %{np.abs(here - first).max():10.1e}")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data")
    options = parser.parse_args()
    print(decisions(options.model, options.data))
