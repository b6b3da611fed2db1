"""A head of another name on the published features: what a network gets that is trained on classes of one's own."""

from __future__ import annotations

from dataclasses import replace

from convert.layouts import array_name, layer_of
from convert.matching import NamedArrays, network_of
from ferplus_keras.networks.architecture import NO_HEAD, architecture
from ferplus_keras.networks.emotions import EMOTIONS
from ferplus_keras.wording import counted

#: What a head is called in Albanie's files.
HEAD_NAMES = ("classifier", "feat_extract")


def adopt_head(found: NamedArrays) -> NamedArrays:
    """``found`` with the only layer on the published features as the classifier, whatever its name.

    That is what fine-tuning produces: a network without its top, and a layer for other classes after it. Anything else
    is returned unchanged, for :func:`convert.matching.match` to judge. This goes by names and shapes, for files without
    a graph; :mod:`convert.readers.keras_pairing` is for those with one.
    """
    layer = _foreign_head(found)
    if layer is None:
        return found
    roles = ("kernel", "bias")
    names = {array_name(layer, role, found.layout): array_name("classifier", role, found.layout) for role in roles}
    units = found.arrays[array_name(layer, "bias", found.layout)].shape[0]
    return replace(found.renamed(lambda name: names.get(name, name), head_note(layer, units)), adopted=layer)


def _foreign_head(found: NamedArrays) -> str | None:
    """The one layer outside the headless network, if it has a classifier's shapes and not a published name."""
    layout = found.layout
    layers = {layer_of(name, layout) for name in found.arrays}
    table = architecture(network_of(layers), NO_HEAD)
    left = layers - table.parameters.keys()
    if not table.parameters.keys() <= layers:
        return None
    arrays = {layer: [name for name in found.arrays if layer_of(name, layout) == layer] for layer in left}
    heads = [layer for layer in left if len(arrays[layer]) == 2 and _is_classifier(found, layer, table.features)]
    others = [layer for layer in left if layer not in heads and any(found.arrays[name].shape for name in arrays[layer])]
    return heads[0] if len(heads) == 1 and not others and heads[0] not in HEAD_NAMES else None


def head_note(layer: str, units: int) -> str:
    """The note about a head of another name."""
    size = counted(units, "unit")
    note = f"layer {layer} ({size} on the features) was used as the classifier; its classes have no names"
    if units == len(EMOTIONS):
        note += f", because nothing says that they are in FERPlus's order ({', '.join(EMOTIONS[:2])}, ...)"
    return note


def _is_classifier(found: NamedArrays, layer: str, features: int) -> bool:
    """Whether it has a kernel and a bias on the features: units x features, or a 1 x 1 convolution, in PyTorch."""
    kernel, bias = (found.arrays.get(array_name(layer, role, found.layout)) for role in ("kernel", "bias"))
    if kernel is None or bias is None or bias.ndim != 1 or not bias.size:
        return False
    if found.layout == "torch":
        return kernel.shape in ((bias.size, features), (bias.size, features, 1, 1))
    return kernel.shape == (features, bias.size)
