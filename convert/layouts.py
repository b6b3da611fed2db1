"""How each family of files names and shapes the arrays of an architecture: rules only.

A layout has one slot for each array. The PyTorch layout is for ``.pth`` and ``.safetensors``, the Keras layout for all
Keras files. Readers and writers use the same slots, so the two directions cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ferplus_keras.networks import architecture as arch
from ferplus_keras.networks.architecture import Architecture, Shape, torch_name
from ferplus_keras.networks.keras_vggface import CONV1, KERAS_VGGFACE, their_name, turned


@dataclass(frozen=True)
class Slot:
    """One array of the network in one layout.

    ``shape`` is the array's shape in the file; ``others`` are further shapes that hold the same numbers in the same
    order (a head as a matrix or as a 1 x 1 convolution). ``axes`` is the transposition from the file to the
    neutral form, or None; ``bgr`` flips the kernel's input axis as well.
    """

    name: str
    layer: str
    role: str
    shape: Shape
    neutral: Shape
    axes: tuple[int, ...] | None = None
    others: tuple[Shape, ...] = ()
    bgr: bool = False  #: whether the file's kernel is for images of the other channel order

    def accepts(self, shape: Shape) -> bool:
        return shape == self.shape or shape in self.others

    def to_neutral(self, array: np.ndarray) -> np.ndarray:
        """The file's array in the neutral form; a view wherever numpy can make one."""
        if array.shape != self.shape:
            array = array.reshape(self.shape)
        if self.bgr:
            array = turned(array)
        return (array if self.axes is None else array.transpose(self.axes)).reshape(self.neutral)

    def from_neutral(self, array: np.ndarray) -> np.ndarray:
        """The neutral array as the file has it, contiguous."""
        if self.bgr:
            array = turned(array)
        if self.axes is None:
            return np.ascontiguousarray(array).reshape(self.shape)
        inverse = np.argsort(self.axes)
        unsqueezed = array.reshape(tuple(self.shape[axis] for axis in self.axes))
        return np.ascontiguousarray(unsqueezed.transpose(inverse))


Layout = dict[str, Slot]


def torch_layout(architecture: Architecture) -> Layout:
    """Slots by state-dict name, in the order in which PyTorch lists them."""
    slots = {}
    for layer in architecture.layers:
        for role, shape in layer.parameters.items():
            name = torch_name(layer.name, role)
            slot = Slot(name, layer.name, role, shape, shape)
            if role == "kernel" and isinstance(layer, arch.Conv):
                # PyTorch: out x in x height x width; Keras: height x width x in x out.
                slot = Slot(name, layer.name, role, tuple(shape[axis] for axis in (3, 2, 0, 1)), shape, (2, 3, 1, 0))
            elif role == "kernel":  # the head, a 1 x 1 convolution in Albanie's files, a Linear in some exports
                features, units = shape
                slot = Slot(name, layer.name, role, (units, features, 1, 1), shape, (2, 3, 1, 0), ((units, features),))
            slots[name] = slot
    return slots


def keras_layout(architecture: Architecture) -> Layout:
    """Slots by ``layer/role``. A head may be a Dense matrix or a 1 x 1 convolution."""
    slots = {}
    for layer in architecture.layers:
        for role, shape in layer.parameters.items():
            others = ((1, 1, *shape),) if role == "kernel" and isinstance(layer, arch.Linear) else ()
            name = f"{layer.name}/{role}"
            slots[name] = Slot(name, layer.name, role, shape, shape, others=others)
    return slots


def keras_vggface_layout(architecture: Architecture) -> Layout:
    """The Keras layout under keras_vggface's names, the first kernel for BGR images."""
    slots = {}
    for slot in keras_layout(architecture).values():
        name = f"{their_name(slot.layer)}/{slot.role}"
        slots[name] = replace(slot, name=name, bgr=slot.layer == CONV1)
    return slots


LAYOUTS: dict[str, Callable[[Architecture], Layout]] = {
    "torch": torch_layout,
    "keras": keras_layout,
    KERAS_VGGFACE: keras_vggface_layout,
}

#: PyTorch's BatchNorm step counter: an integer that inference never reads. Files before torch 0.4.1 lack it.
STEP_COUNTER = "num_batches_tracked"


def layer_of(name: str, layout: str) -> str:
    """The layer part of a tensor name: ``conv1_7x7_s2_bn`` of ``conv1_7x7_s2_bn.weight``."""
    return name.rsplit("." if layout == "torch" else "/", 1)[0]


def head_units(shape: Shape, layout: str) -> int:
    """Number of outputs of a head's kernel as the file has it."""
    return shape[0] if layout == "torch" else shape[-1]


def array_name(layer: str, role: str, layout: str) -> str:
    """What a layer's array is called: the inverse of :func:`layer_of`."""
    return torch_name(layer, role) if layout == "torch" else f"{layer}/{role}"
