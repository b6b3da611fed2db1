"""Parity results with figures of our choosing: what the reports are tested with, in no time."""

from __future__ import annotations

from typing import Any

from ferplus_keras.networks.architecture import architecture
from verify.metrics import Difference
from verify.result import SCHEMA, Result, merged
from verify.runs import TOLERANCES, Run

#: What a hostile file would have for a name, if it could.
HOSTILE = "</title><script>alert('x')</script><img src=http://evil.test/x onerror=alert(1)>\"'`|&amp;{{7*7}}\u202e\x07"

UNIT = {"float64": 1.1e-16, "float32": 6e-8}


def made_up(
    *,
    network: str = "resnet50",
    fault: str | None = None,
    dtypes: tuple[str, ...] = ("float64", "float32"),
    backend: str = "tensorflow",
    problem: str = "",
    standin: bool = True,
    name: str = "resnet50_ferplus-standin.h5",
) -> Result:
    """A result that passes; with ``fault``, from that layer on the two sides differ, or cannot be compared."""
    table = architecture(network)
    runs = [_run(table, dtype, fault, problem) for dtype in dtypes]
    source = {"name": "resnet50_ferplus_dag-standin.pth", "size": 94_366_263, "sha256": "a" * 64, "format": "torch-zip"}
    provenance = {
        "source": source, "origin": source, "network": network, "head": "classifier", "units": 8, "dropout": 0.0,
        "output": "probabilities", "labels": ["neutral", "happiness"], "preprocessing": {"mean": [131.0912, 103.8827]},
        "standin": standin, "num_batches_tracked": 0, "torch_head": "conv", "notes": [], "tool": "ferplus-keras 0.1.0",
        "schema": 1,
    }  # fmt: skip
    result: Result = {
        "schema": SCHEMA, "passed": all(run.passed for run in runs), "tool": "ferplus-keras 0.1.0",
        "command": f"ferplus verify parity {name} --against {source['name']}", "created": "2026-11-24T19:57:34+00:00",
        "seconds": 41.5, "peak_bytes": 2_906_783_744, "machine": "Linux x86_64, Python 3.11.7",
        "versions": {"numpy": "2.4.6", backend: "1.0"},
        "model": {"name": name, "size": 94_886_040, "sha256": "b" * 64, "format": "h5-model", "provenance": provenance},
        "source": source | {"provenance": None}, "network": network, "head": "8 classes", "standin": standin,
        "images": {"count": 4, "origin": "seeded images with natural statistics, seed 0"},
        "references": [{"name": "PyTorch, this project's module", "independent": False, "note": "ours"}],
        "tensors": {"passed": True, "summary": "267 arrays, equal bit for bit", "compared": 267, "different": 0,
                    "missing": 0, "extra": 0, "largest_ulps": 0},
        "pairing": {"summary": "all 174 layers by name", "sure": True, "plain": True, "by": {"name": 174},
                    "guessed": [], "unpaired": [], "left_over": [], "names": {}},
        "preprocessing": {"passed": True, "summary": "RGB", "arithmetic": 9.6e-06},
        "runs": [run.as_dict(table) | {"backend": backend} for run in runs],
        "diagnosis": None,
    }  # fmt: skip
    if fault:
        result["diagnosis"] = {
            "layer": fault, "fault": "batchnorm-epsilon", "cause": f"{fault} has epsilon 0.001, not 1e-05",
            "confidence": "certain", "tried": 1, "evidence": "this fault explains all but 7e-12 of the difference",
        }  # fmt: skip
    return merged([result])


def _run(table: Any, dtype: str, fault: str | None, problem: str) -> Run:
    names = [layer.name for layer in table.layers[1:]]
    wrong = names.index(fault) if fault else len(names)
    layers, bounds = [], {}
    for index, name in enumerate(names):
        relative = UNIT[dtype] * (1 + index % 7 + index / 20)
        bounds[name] = 6 * relative
        if index >= wrong:
            relative = 1e-3 / (1 + index % 5)
        failed = problem if index >= wrong else ""
        layers.append(difference(name, relative, failed))
    if dtype == "float32":
        layers[0] = difference(names[0], 0.0)
    logits = layers[-1]
    return Run(
        "torch", dtype, TOLERANCES[dtype], tuple(layers), bounds, logits, difference("prob", logits.relative, problem),
        1.0, 0.25, 4, 3.1,
    )  # fmt: skip


def difference(name: str, relative: float, problem: str = "") -> Difference:
    if problem:
        return Difference(name, float("inf"), float("inf"), float("inf"), float("nan"), problem)
    return Difference(name, 10 * relative, relative, 3 * relative, 1 - relative**2)


def several_backends(fault: str | None = None) -> Result:
    """The same check on three backends, float64 on the first."""
    return merged(
        [
            made_up(fault=fault),
            made_up(fault=fault, dtypes=("float32",), backend="jax"),
            made_up(fault=fault, dtypes=("float32",), backend="torch"),
        ]
    )


def of_other_hands(fault: str | None = None) -> Result:
    """Somebody's own port: layers under other names, one of them a guess, no provenance."""
    result = made_up(fault=fault, name="port.keras", standin=False)
    result["model"] |= {"provenance": None, "format": "a Keras model from elsewhere"}
    names = {each["layer"]: f"conv2d_{index}" for index, each in enumerate(result["runs"][0]["layers"])}
    result["pairing"] = {
        "summary": "174 of 174 layers were paired: 173 by structure, 1 by order; 1 of these are guesses, the first "
        "conv4_3_3x3", "sure": False, "plain": False, "by": {"structure": 173, "order": 1}, "guessed": ["conv4_3_3x3"],
        "unpaired": [], "left_over": ["dense_7"], "names": names,
    }  # fmt: skip
    return result


def poisoned(value: Any, text: str = HOSTILE) -> Any:
    """``value`` with ``text`` in every string that a file could have put there; keys and fixed words stay."""
    if isinstance(value, dict):
        fixed = ("dtype", "created", "confidence", "sha256", "fault", "by")
        return {key: each if key in fixed else poisoned(each, text) for key, each in value.items()}
    if isinstance(value, list):
        return [poisoned(each, text) for each in value]
    return f"{value}{text}" if isinstance(value, str) and value else value
