"""The outcome of a parity check as plain data, for JSON and for every report: schema 2 (docs/parity.md)."""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from convert.checkpoint import Source
from convert.readers import own_provenance
from ferplus_keras import __version__
from ferplus_keras.files.hashing import sha256_of
from verify.parity import Parity

SCHEMA = 2

Result = dict[str, Any]


def as_result(parity: Parity, source: Path, command: str) -> Result:
    """``parity`` as plain data. Non-finite numbers are null."""
    checkpoint = parity.checkpoint
    runs = [run.as_dict(checkpoint.architecture) | {"backend": parity.backend} for run in parity.runs]
    result: Result = {
        "schema": SCHEMA,
        "passed": parity.passed,
        **stamp(command, parity.seconds),
        "model": _file(parity.model, parity.model_provenance.source if parity.model_provenance else None),
        "source": _file(source, checkpoint.provenance.source),
        "network": checkpoint.provenance.network,
        "head": str(checkpoint.architecture.head),
        "standin": parity.standin,
        "images": {"count": parity.images.count, "origin": parity.images.origin},
        "references": parity.references,
        "pairing": parity.pairing.as_dict(),
        "tensors": {"passed": parity.tensors.passed, "summary": parity.tensors.summary} | parity.tensors.figures(),
        "preprocessing": {"passed": parity.preprocessing.passed, "summary": parity.preprocessing.summary}
        | parity.preprocessing.figures(),
        "runs": runs,
        "diagnosis": parity.diagnosis.as_dict() if parity.diagnosis else None,
    }
    return _judged(result)


def stamp(command: str, seconds: float) -> Result:
    """What made a result, when, where, and what it took."""
    return {
        "tool": f"ferplus-keras {__version__}", "command": command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": seconds, "peak_bytes": peak_bytes(),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": versions(),
    }  # fmt: skip


def merged(results: list[Result]) -> Result:
    """One result of several backends' results on the same pair of files."""
    first = results[0]
    both: Result = first | {
        "passed": all(each["passed"] for each in results),
        "seconds": sum(each["seconds"] for each in results),
        "peak_bytes": max((each["peak_bytes"] or 0 for each in results), default=0) or None,
        "versions": {name: version for each in results for name, version in each["versions"].items()},
        "runs": [run for each in results for run in each["runs"]],
        "references": list({known["name"]: known for each in results for known in each["references"]}.values()),
        "diagnosis": next((each["diagnosis"] for each in results if each["diagnosis"]), None),
        # The same file and images on every backend: they differ only where something is wrong.
        "tensors": min((each["tensors"] for each in results), key=lambda found: bool(found["passed"])),
        "preprocessing": min((each["preprocessing"] for each in results), key=lambda found: bool(found["passed"])),
        "pairing": min((each["pairing"] for each in results), key=lambda found: bool(found["sure"])),
    }
    return _judged(both)


def _judged(result: Result) -> Result:
    """``result`` with its levels. One that fails fails the whole: a report never says both."""
    found = levels(result)
    return result | {"passed": result["passed"] and all(level["passed"] for level in found), "levels": found}


def levels(result: Result) -> list[dict[str, Any]]:
    """The five levels of proof, each with a verdict and a sentence."""
    runs = result["runs"]
    return [
        _level("tensors", "The file's numbers", "Is every array the checkpoint's?", result["tensors"]),
        _level(
            "preprocessing",
            "Pixels to input",
            "Does preprocessing do what was published, and does the file say so?",
            result["preprocessing"],
        ),
        {
            "name": "layers",
            "title": "Every layer",
            "question": "Is each layer's output the reference's, on the same images?",
            "passed": all(run["first_over"] is None for run in runs),
            "summary": "; ".join([*(_layers_sentence(run) for run in runs), *_no_float64(runs)]),
            "figures": {run_label(run): run["worst_layer"]["relative"] for run in runs},
        },
        {
            "name": "logits",
            "title": "Logits and probabilities",
            "question": "The same, at the end?",
            "passed": all(
                each["passed"] for run in runs for each in (run["logits"], run["probabilities"], run["output"]) if each
            ),
            "summary": "; ".join(_logits_sentence(run) for run in runs),
            "figures": {run_label(run): run["logits"]["relative"] for run in runs},
        },
        {
            "name": "decisions",
            "title": "Decisions",
            "question": "The same top class?",
            "passed": all(run["decisions"]["agreement"] == 1.0 for run in runs),
            "summary": "; ".join(_decisions_sentence(run) for run in runs),
            "figures": {run_label(run): run["decisions"]["agreement"] for run in runs},
        },
    ]


def _level(name: str, title: str, question: str, found: dict[str, Any]) -> dict[str, Any]:
    figures = {key: value for key, value in found.items() if key not in ("passed", "summary")}
    verdict = {"passed": found["passed"], "summary": found["summary"], "figures": figures}
    return {"name": name, "title": title, "question": question} | verdict


def run_label(run: dict[str, Any]) -> str:
    against = "" if run["reference"] == "torch" else f" against {run['reference']}"
    return f"{run['dtype']} on {run['backend']}{against}"


def _figure(entry: dict[str, Any]) -> str:
    return f"{entry['relative']:.2g}" if entry["finite"] else entry["problem"]


def _layers_sentence(run: dict[str, Any]) -> str:
    worst = run["worst_layer"]
    count = len(run["layers"])
    bound = f", rounding can do {worst['bound']:.2g} there" if worst["bound"] else ""
    return f"{run_label(run)}: {count} layers, worst {worst['layer']}, {_figure(worst)}{bound}"


def _no_float64(runs: list[dict[str, Any]]) -> list[str]:
    if any(run["dtype"] == "float64" for run in runs):
        return []
    return ["float64 was not run: a mistake smaller than float32's rounding would not be seen"]


def _logits_sentence(run: dict[str, Any]) -> str:
    said = f"{run_label(run)}: off by {_figure(run['logits'])} of the largest logit (allowed {run['tolerance']:.0e})"
    if run["output"] and not run["output"]["passed"]:
        apart = f"off by {_figure(run['output'])}" if run["output"]["finite"] else run["output"]["problem"]
        said += f", and the model returns something other than its head computes ({apart})"
    return said


def _decisions_sentence(run: dict[str, Any]) -> str:
    decisions = run["decisions"]
    if run["probabilities"] is None:
        return f"{run_label(run)}: no classifier, so nothing is decided"
    same = f"{run_label(run)}: {round(decisions['agreement'] * decisions['images'])} of {decisions['images']} the same"
    if decisions["closest_margin"] is None:
        return same
    return f"{same}, the closest call by {decisions['closest_margin']:.2g} of the largest logit"


def _file(path: Path, read: Source | None) -> dict[str, Any]:
    provenance = own_provenance(path) if read else None
    return {
        "name": path.name,
        "size": path.stat().st_size,
        "sha256": read.sha256 if read and read.sha256 else sha256_of(path),
        "format": read.format if read else "a Keras model from elsewhere",
        "provenance": asdict(provenance) if provenance else None,
    }


def versions() -> dict[str, str]:
    """The libraries that took part, and their versions."""
    return {
        name: str(getattr(module, "__version__", "?"))
        for name in ("numpy", "h5py", "keras", "tensorflow", "jax", "torch", "onnxruntime")
        if (module := sys.modules.get(name)) is not None
    }


def peak_bytes() -> int | None:
    """The largest resident memory of this process so far, where the system tells."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
