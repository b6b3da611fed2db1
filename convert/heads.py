"""A head of another name on the published features: what a network gets that is trained on classes of one's own."""

from __future__ import annotations

from dataclasses import replace

from convert.layouts import array_name, layer_of
from convert.matching import NamedArrays
from ferplus_keras.networks.architecture import NO_HEAD, architecture
from ferplus_keras.networks.emotions import EMOTIONS

#: What a head is called in Albanie's files.
HEAD_NAMES = ("classifier", "feat_extract")


def foreign_head(found: NamedArrays) -> str | None:
    """The one layer that is not the headless network's, if its shapes are a classifier's and its name is its own."""
    layout = found.layout
    layers = {layer_of(name, layout) for name in found.arrays}
    network = "senet50" if any(layer.endswith("_1x1_down") for layer in layers) else "resnet50"
    table = architecture(network, NO_HEAD)
    left = layers - table.parameters.keys()
    if not table.parameters.keys() <= layers:
        return None
    arrays = {layer: [name for name in found.arrays if layer_of(name, layout) == layer] for layer in left}
    heads = [layer for layer in left if len(arrays[layer]) == 2 and _is_classifier(found, layer, table.features)]
    others = [layer for layer in left if layer not in heads and any(found.arrays[name].shape for name in arrays[layer])]
    return heads[0] if len(heads) == 1 and not others and heads[0] not in HEAD_NAMES else None


def as_classifier(found: NamedArrays, layer: str) -> NamedArrays:
    """``found`` with ``layer`` under the classifier's name, and a note that says so."""
    roles = ("kernel", "bias")
    renamed = {array_name(layer, role, found.layout): array_name("classifier", role, found.layout) for role in roles}
    units = found.arrays[array_name(layer, "bias", found.layout)].shape[0]
    return replace(
        found,
        arrays={renamed.get(name, name): array for name, array in found.arrays.items()},
        dtypes={renamed.get(name, name): dtype for name, dtype in found.dtypes.items()},
        notes=[*found.notes, head_note(layer, units)],
        adopted=layer,
    )


def head_note(layer: str, units: int) -> str:
    """What is said of a head of another name."""
    note = f"its layer {layer}, {units} units on the features, was taken as the classifier; its classes have no names"
    if units == len(EMOTIONS):
        note += f" here: nothing says that their order is FERPlus's ({', '.join(EMOTIONS[:2])}, ...)"
    return note


def _is_classifier(found: NamedArrays, layer: str, features: int) -> bool:
    """Whether it has a kernel and a bias on the features: units x features, or a 1 x 1 convolution, in PyTorch."""
    kernel, bias = (found.arrays.get(array_name(layer, role, found.layout)) for role in ("kernel", "bias"))
    if kernel is None or bias is None or bias.ndim != 1 or not bias.size:
        return False
    if found.layout == "torch":
        return kernel.shape in ((bias.size, features), (bias.size, features, 1, 1))
    return kernel.shape == (features, bias.size)


__all__ = ["HEAD_NAMES", "as_classifier", "foreign_head", "head_note"]
