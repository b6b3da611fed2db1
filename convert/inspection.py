"""What a file is: format, network, head, types, provenance, and all of its problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from convert.checkpoint import Provenance
from convert.choice import SeveralNetworksError
from convert.layouts import STEP_COUNTER
from convert.match_report import INSPECT, by
from convert.matching import NamedArrays, match
from convert.readers import graph_problem, read_named, valid_provenance, with_head
from convert.readers.exports import inspect_export
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.network_folder import open_checkpoint
from ferplus_keras.files.provenance import named_standin
from ferplus_keras.networks.keras_vggface import KERAS_VGGFACE, PADDING_NOTE
from ferplus_keras.wording import counted, printable

#: How many of a foreign file's tensors are listed.
LISTED = 12


def inspect(path: str | Path, *, key: str | None = None) -> dict[str, Any]:
    """Everything known about the checkpoint or Keras file at ``path``, as plain data.

    ``key`` chooses a network if the file holds several. Raises :class:`BadInputError` only if the file is not a
    checkpoint at all; a checkpoint's faults are under ``problems``.
    """
    if (export := inspect_export(path)) is not None:
        return export
    file = open_checkpoint(path)
    networks: dict[str, str] = {}
    undecided = ""
    try:
        found = with_head(read_named(file, key))
    except SeveralNetworksError as error:
        networks, undecided = error.choices, str(error)
        found = replace(read_named(file, next(iter(networks))), arrays={}, dtypes={}, notes=[], provenance=None)
    earlier = valid_provenance(found)
    result: dict[str, Any] = {
        "file": str(file.path),
        "size": file.size,
        "sha256": file.sha256(),
        "format": found.format,
        "tensors": sum(not name.endswith(f".{STEP_COUNTER}") for name in found.arrays),
        "step_counters": sum(name.endswith(f".{STEP_COUNTER}") for name in found.arrays),
        "dtypes": dict(Counter(found.dtypes.values())),
        "network": None,
        "head": None,
        "folded": None,
        "parameters": None,
        "output": found.output or (earlier.output if earlier else None),
        "standin": found.standin or named_standin(file.path.name) or bool(earlier and earlier.standin),
        "networks": networks,
        "input_size": _input_size(found, earlier),
        "notes": found.notes,
        "provenance": asdict(earlier) if earlier else None,
        "problems": undecided,
    }
    if undecided:
        return result
    try:
        matched = match(found, file.path.name)
    except BadInputError as error:
        result["problems"] = "\n".join(filter(None, (error.details, printable(str(error).removesuffix(INSPECT)))))
        shapes = {name: list(array.shape) for name, array in found.arrays.items()}
        result["listing"] = dict(list(shapes.items())[:LISTED])
        return result
    result |= {
        "network": matched.architecture.network,
        "head": str(matched.architecture.head),
        "folded": matched.architecture.folded,
        "parameters": matched.architecture.parameter_count,
        "notes": matched.notes,
    }
    if problem := graph_problem(found):
        sentence = f"{file.path.name}: its graph is not {matched.architecture.network}'s: {problem}"
        result["problems"] = printable(sentence)
    return result


def _input_size(found: NamedArrays, earlier: Provenance | None) -> list[int] | None:
    """Height and width of the images that the network was trained on, or that its graph takes; None if unknown."""
    if earlier:
        return list(earlier.preprocessing["size"])
    return list(found.size) if found.size else None


def as_text(result: dict[str, Any]) -> str:
    """:func:`inspect`'s result for a person."""
    standin = "  (STAND-IN: made-up weights)" if result["standin"] else ""
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in result["dtypes"].items())
    tensors = f"{result['tensors']:,}"
    if result["step_counters"]:
        tensors += f" and {counted(result['step_counters'], 'step counter')}"
    rows = [
        ("file", result["file"] + standin),
        ("size", f"{result['size']:,} bytes"),
        ("sha256", result["sha256"]),
        ("format", result["format"]),
        ("network", result["network"] or ("several:" if result.get("networks") else "not recognised")),
        *(("", f"--key {key}: {what}") for key, what in result.get("networks", {}).items()),
        ("head", result["head"]),
        ("input size", by(result["input_size"]) if result.get("input_size") else None),
        ("folded", "normalisations merged into the convolutions: for inference only" if result["folded"] else None),
        ("output", result["output"]),
        ("parameters", f"{result['parameters']:,}" if result["parameters"] else None),
        ("tensors", f"{tensors} ({dtypes})" if dtypes else None),
        ("takes", ", ".join(result.get("inputs", ()))),
        ("gives", ", ".join(result.get("outputs", ()))),
    ]
    if provenance := result["provenance"]:
        source, origin = provenance["source"], provenance["origin"]
        rows.append(("made from", f"{source['name']} ({source['format']}, sha256 {source['sha256'][:12]}...)"))
        if origin != source:
            rows.append(("originally", f"{origin['name']} ({origin['format']}, sha256 {origin['sha256'][:12]}...)"))
        rows.append(("made by", provenance["tool"]))
        if provenance["labels"]:
            rows.append(("labels", ", ".join(provenance["labels"])))
        pre = provenance["preprocessing"]
        taken = f"{_numbers(pre['pixel_range'])} less {_numbers(pre['mean'])}"
        if provenance["preprocessing_inside"]:
            taken += " (subtracted inside: the model takes bytes)"
        rows.append(("input", f"{pre['channel_order']}, {taken}, {pre['resize']}"))
        if provenance["layout"] == KERAS_VGGFACE:
            rows.append(("NOT EXACT", PADDING_NOTE))
    rows += [("note", note) for note in result["notes"]]
    for name, shape in result.get("listing", {}).items():
        rows.append(("tensor", f"{name} ({by(shape)})"))
    text = "\n".join(f"{label:<11} {value}" for label, value in rows if value)
    return f"{text}\n{result['problems']}" if result["problems"] else f"{text}\nproblems    none"


def _numbers(values: Iterable[float]) -> str:
    """``0 to 255`` of two, ``(131.0912, 103.8827, 91.4953)`` of three."""
    written = [f"{value:g}" if value == int(value) else str(value) for value in values]
    return " to ".join(written) if len(written) == 2 else f"({', '.join(written)})"
