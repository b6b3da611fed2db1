"""On how many images of FERPlus's Valid (``albanie``) each runtime of an ONNX file decides otherwise than ONNX Runtime.

python -m benchmarks.decisions NETWORK.onnx [--data DIR]

Where the processor has no bfloat16, the runtime that needs it is left out.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks import harness
from ferplus_keras.dataset import load_ferplus
from ferplus_keras.dataset.protocols import PROTOCOLS
from ferplus_keras.engines import open_engine
from ferplus_keras.engines.onnx_engine import RUNTIMES
from ferplus_keras.networks.resizing import DEFAULT_RESIZER
from verify.accuracy import predict
from verify.predictors import open_predictor


def decisions(model: Path, data: str | None) -> str:
    """On how many images of Valid each runtime decides otherwise than ONNX Runtime, and how often it is right."""
    dataset, predictor = load_ferplus(data), open_predictor(model)
    targets, rows = PROTOCOLS["albanie"].apply(dataset.votes), dataset.rows_of("val")
    rows = rows[targets.kept[rows]]
    found, lines = {}, [f"{model.name}, {len(rows)} images of Valid: decided otherwise, right, largest difference"]
    for runtime in (each for each in RUNTIMES if harness.runs_here(each)):
        engine = open_engine(model, runtime=runtime)
        runner = replace(predictor, engine=engine)
        found[runtime] = here = predict(runner, dataset.images, rows, DEFAULT_RESIZER, lambda _step: None, "")
        first = found[RUNTIMES[0]]
        changed, right = here.decisions != first.decisions, here.decisions == targets.labels[rows]
        largest = np.abs(here.probabilities - first.probabilities).max()
        lines.append(f"{engine.by:<28}{changed.sum():>5} {100 * changed.mean():6.2f} %"
                     f"{100 * right.mean():8.2f} %{largest:10.1e}")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data")
    options = parser.parse_args()
    print(decisions(options.model, options.data))
