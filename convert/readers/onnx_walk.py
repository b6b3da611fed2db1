"""Pair an ONNX graph's nodes with the layers of an architecture: by what is connected to what, not by names.

Exporters rename everything, lay transpositions and reshapes between the layers, and fold batch normalisations into the
convolutions before them. The walk goes through the architecture's layers in order and looks, at each layer's inputs,
for the one node that does its work with tensors of its shape.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from ferplus_keras.files.onnx_graph import Graph, Node
from ferplus_keras.networks import architecture as arch
from ferplus_keras.networks.architecture import (
    NO_HEAD,
    Architecture,
    Head,
    architecture,
    classifier,
    embedding,
    torch_name,
)
from ferplus_keras.networks.preprocessing import PUBLISHED

#: Nodes that change no number: what comes out is what went in, differently laid out.
TRANSPARENT = frozenset(("Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout", "Cast"))

POOLS = ("GlobalAveragePool", "AveragePool", "ReduceMean")

KINDS: dict[type[arch.Layer], tuple[str, ...]] = {
    arch.Conv: ("Conv",),
    arch.BatchNorm: ("BatchNormalization",),
    arch.ReLU: ("Relu",),
    arch.Sigmoid: ("Sigmoid",),
    arch.MaxPool: ("MaxPool",),
    arch.AveragePool: POOLS,
    arch.GlobalPool: POOLS,
    arch.Scale: ("Mul",),
    arch.Add: ("Add",),
    arch.Linear: ("Gemm", "Conv", "MatMul"),
}

#: A batch normalisation that does nothing, in float32 numbers: gamma / sqrt(variance + 1e-5) is 1 in float32 and 1
#: within 2e-15 in float64. Found by trying every gamma from 1 to 2: of 8 million pairs this one comes closest.
IDENTITY = {
    "gamma": float.fromhex("0x1.c0bf2ep+0"),
    "moving_mean": 0.0,
    "moving_variance": float.fromhex("0x1.894e84p+1"),
}

#: The mean beside images whose channels stand last, or first.
MEAN_SHAPES = ((3,), (1, 1, 3), (1, 1, 1, 3), (3, 1, 1), (1, 3, 1, 1))

#: How far an epsilon may be from 1e-5 and still be 1e-5 that was stored in float32.
EPSILON_ROUNDING = 1e-12


class DepartsError(ValueError):
    """The graph is not that network; the message says where it parts, and what is there instead."""


@dataclass
class Paired:
    """The outcome of a walk.

    ``outputs`` maps each layer to the tensor that is its output (a convolution that was folded with its batch
    normalisation has none of its own). ``arrays`` has PyTorch's names and shapes.
    """

    architecture: Architecture
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    folded: list[str] = field(default_factory=list)  #: the batch normalisations that were folded
    probabilities: bool = False


def pair(graph: Graph, *, folded: bool = False) -> Paired:
    """``graph`` as one of these networks, recognised from its operators. Raises :class:`DepartsError`.

    ``folded``: the file says itself that its batch normalisations were folded, and its arrays are those of the folded
    architecture; else each that is missing becomes one that does nothing.
    """
    network = "senet50" if any(node.kind == "Sigmoid" for node in graph.nodes) else "resnet50"
    return _Walk(graph, network, folded).paired()


class _Walk:
    def __init__(self, graph: Graph, network: str, folded: bool) -> None:
        self.graph, self.network, self.folded = graph, network, folded
        self.consumers: dict[str, list[Node]] = defaultdict(list)
        self.producer: dict[str, Node] = {}
        for node in graph.nodes:
            for name in node.inputs:
                self.consumers[name].append(node)
            for name in node.outputs:
                self.producer[name] = node
        self.used: set[int] = set()
        self.result = Paired(self._table(NO_HEAD))
        #: Layer -> names under which its output goes, with the zeros that a Pad laid around it on the way.
        self.places: dict[str, dict[str, list[int]]] = {}

    def _table(self, head: Head) -> Architecture:
        return architecture(self.network, head, folded=self.folded)

    def paired(self) -> Paired:
        images = [name for name in self.graph.inputs if name not in self.graph.tensors]
        if len(images) != 1:
            raise DepartsError(f"it has {len(images)} inputs, where {self.network} has one")
        self.places["data"] = self._aliases(images[0]) | self._centred(images[0])
        for layer in self.result.architecture.layers[1:]:
            self._layer(layer)
        head = self._head(self.result.architecture.output)
        self.result.architecture = table = self._table(head)
        for layer in table.layers[len(self._table(NO_HEAD).layers) :]:
            self._layer(layer)
        self.result.probabilities = any(
            node.kind == "Softmax" for name in self.places[table.output] for node in self.consumers[name]
        )
        return self.result

    def _aliases(self, tensor: str) -> dict[str, list[int]]:
        """``tensor`` and what it is called behind nodes that only lay it out differently -> padding so far."""
        found = {tensor: [0, 0, 0, 0]}
        pending = [tensor]
        while pending:
            name = pending.pop()
            for node in self.consumers[name]:
                if not node.inputs or node.inputs[0] != name:
                    continue
                padding = self._padding(node) if node.kind == "Pad" else [0] * 4
                passes = node.kind in TRANSPARENT and not self._drops(node)
                if (passes or (node.kind == "Pad" and padding)) and node.outputs and node.outputs[0] not in found:
                    found[node.outputs[0]] = [a + b for a, b in zip(found[name], padding, strict=True)]
                    pending.append(node.outputs[0])
        return found

    def _centred(self, images: str) -> dict[str, list[int]]:
        """What the input is called behind a subtraction of the published mean, channel by channel: preprocessing that
        stands inside. Another mean, or none, is for the walk to stumble over: what follows is then not connected."""
        found: dict[str, list[int]] = {}
        for name in self._aliases(images):
            for node in self.consumers[name]:
                mean = self._tensor(node.inputs[1], flat=True) if len(node.inputs) == 2 else None
                if node.kind != "Sub" or node.inputs[0] != name or mean is None or mean.dtype != np.float32:
                    continue
                if mean.shape in MEAN_SHAPES and np.array_equal(
                    mean.reshape(-1), np.asarray(PUBLISHED.mean, np.float32)
                ):
                    found |= self._aliases(node.outputs[0])
        return found

    def _padding(self, node: Node) -> list[int]:
        """Zeros at the top, left, bottom and right that a Pad lays; empty when it does something else."""
        if node.text("mode", "constant") != "constant" or not self._pads_zeros(node):
            return []
        pads = node.integers("pads", [])
        if not pads and len(node.inputs) > 1 and (array := self._tensor(node.inputs[1])) is not None:
            pads = array.reshape(-1).tolist() if array.size == 8 and array.dtype.kind in "iu" else []
        if len(pads) != 8:
            return []
        for first in (1, 2):  # height and width stand second and third, or third and fourth
            rest = [pads[axis] for axis in range(8) if axis % 4 not in (first, first + 1)]
            if not any(rest):
                return [pads[first], pads[first + 1], pads[first + 4], pads[first + 5]]
        return []

    def _drops(self, node: Node) -> bool:
        """Whether a Dropout is told to act, as it does in training."""
        if node.kind != "Dropout" or len(node.inputs) < 3 or not node.inputs[2]:
            return False
        training = self._tensor(node.inputs[2])
        return training is None or bool(training.any())

    def _pads_zeros(self, node: Node) -> bool:
        """Whether what a Pad lays is zero: its third input, or the attribute of old opsets; the default is zero."""
        if len(node.inputs) > 3 and node.inputs[3]:  # axes of its own: no exporter of these networks needs them
            return False
        if len(node.inputs) > 2 and node.inputs[2]:
            value = self._tensor(node.inputs[2])
            return value is not None and value.size == 1 and not value.any()
        return node.number("value", 0.0) == 0.0

    def _tensor(self, name: str, *, flat: bool = False) -> np.ndarray | None:
        """The initialiser of that name, also through nodes that hand it on; ``flat``: that reshape it, too."""
        passing = ("Identity", "Reshape") if flat else ("Identity",)
        for _ in range(4):
            if name in self.graph.tensors:
                return self.graph.tensors[name]
            node = self.producer.get(name)
            if node is None or node.kind not in passing or not node.inputs:
                return None
            name = node.inputs[0]
        return None

    def _candidates(self, layer: arch.Layer) -> Iterator[tuple[Node, list[int]]]:
        """Unused nodes that do ``layer``'s work on its inputs, and the padding that was laid before them."""
        first, *others = (self.places[name] for name in layer.inputs)
        for name, padding in first.items():
            for node in self.consumers[name]:
                if node.kind not in KINDS[type(layer)] or id(node) in self.used or not (node.outputs and node.inputs):
                    continue
                rest = [each for each in node.inputs if each != name]
                if any(each in others[0] for each in rest) if others else node.inputs[0] == name:
                    yield node, padding

    def _layer(self, layer: arch.Layer) -> None:
        candidates = list(self._candidates(layer))
        if isinstance(layer, arch.BatchNorm) and not candidates and self._fold(layer):
            return
        reasons = []
        for node, padding in candidates:
            reason = self._unlike(layer, node, padding)
            if not reason:
                self.used.add(id(node))
                output = node.outputs[0]
                if isinstance(layer, arch.Linear) and node.kind == "MatMul":
                    output = self._biased(layer, output)
                self.places[layer.name] = self._aliases(output)
                self.result.outputs[layer.name] = output
                return
            reasons.append(reason)
        wanted = " or ".join(KINDS[type(layer)])
        if reasons:
            raise DepartsError(f"at {layer.name} {reasons[0]}")
        found = sorted({n.kind for name in self.places[layer.inputs[0]] for n in self.consumers[name]} - TRANSPARENT)
        raise DepartsError(f"{layer.name} ({wanted}) is not there; what comes is {', '.join(found[:4]) or 'nothing'}")

    def _unlike(self, layer: arch.Layer, node: Node, padding: list[int]) -> str:
        """Why ``node`` is not ``layer``, or "" when it is; its tensors are then taken."""
        match layer:
            case arch.Conv():
                return self._convolution(layer, node, padding)
            case arch.BatchNorm():
                return self._batch_normalization(layer, node)
            case arch.MaxPool():
                # Zeros laid before do what minus infinity does: a ReLU came before.
                pads = _sum(node.integers("pads", [0] * 4), padding)
                up = pads == [0, 0, 1, 1] or (pads == [0] * 4 and node.number("ceil_mode", 0) == 1)
                same = node.text("auto_pad", "NOTSET") == "SAME_UPPER" and not any(padding)
                shape = (node.integers("kernel_shape", []), node.integers("strides", [1, 1]))
                dilated = node.integers("dilations", [1, 1]) != [1, 1]
                if shape != ([layer.kernel] * 2, [layer.stride] * 2) or dilated or not (up or same):
                    return (
                        f"the pooling is {shape[0]}, strides {shape[1]}, padded {pads}, and does not round its size up"
                    )
            case arch.AveragePool() | arch.GlobalPool():
                return self._average(node, padding)
            case arch.Linear():
                return self._linear(layer, node)
        return ""

    def _average(self, node: Node, padding: list[int]) -> str:
        """The average over the whole map, 7 x 7 before the head, in one of three forms."""
        if any(padding):
            return f"the average is taken of a map that is padded {padding}"
        if node.kind == "AveragePool":
            size, pads = node.integers("kernel_shape", []), node.integers("pads", [0] * 4)
            if size != [arch.AveragePool.kernel] * 2 or any(pads) or node.integers("dilations", [1, 1]) != [1, 1]:
                return f"the average covers the whole map, 7 x 7, and the file has {size[:4]}, padded {pads[:8]}"
        if node.kind == "ReduceMean":
            axes = node.integers("axes", [])
            if not axes and len(node.inputs) > 1 and (array := self._tensor(node.inputs[1], flat=True)) is not None:
                axes = array.reshape(-1).tolist() if array.size == 2 and array.dtype.kind in "iu" else []
            # Height and width stand last (PyTorch), or before the channels (Keras); -1 counts from the end.
            if sorted(axis % 4 for axis in axes) not in ([2, 3], [1, 2]):
                return f"the average is taken over height and width, and the file's over the axes {axes[:4]}"
        return ""

    def _convolution(self, layer: arch.Conv, node: Node, padding: list[int]) -> str:
        kernel = self._tensor(node.inputs[1]) if len(node.inputs) > 1 else None
        shape = (layer.out_channels, layer.in_channels, layer.kernel, layer.kernel)
        if kernel is None or kernel.shape != shape:
            return f"a kernel of the shape {shape} belongs, and the file has {None if kernel is None else kernel.shape}"
        pads = _sum(node.integers("pads", [0] * 4), padding)
        auto = node.text("auto_pad", "NOTSET")
        if auto == "VALID":
            pads = padding
        elif auto not in ("NOTSET", "SAME_UPPER", "SAME_LOWER"):
            return f"auto_pad is {auto or 'no text'!r}"
        elif auto != "NOTSET" and layer.kernel > 1:  # as much on both sides only where the stride is 1
            pads = [(layer.kernel - 1) // 2 + each for each in padding] if layer.stride == 1 else []
        found = (node.integers("strides", [1, 1]), pads, node.number("group", 1), node.integers("dilations", [1, 1]))
        if found != ([layer.stride] * 2, [layer.padding] * 4, 1, [1, 1]):
            return (
                f"the stride is {layer.stride} and the padding {layer.padding}, and the file has strides {found[0]} "
                f"and padding {found[1]}"
            )
        self._take(layer, "kernel", node.inputs[1], kernel)
        if len(node.inputs) > 2 and node.inputs[2] and not (self._is_zero(node.inputs[2]) and not layer.bias):
            self._take(layer, "bias", node.inputs[2], self._tensor(node.inputs[2]))
        return ""

    def _is_zero(self, name: str) -> bool:
        """Whether ``name`` is all zeros, also when it is spread from one zero (PyTorch's exporter, not optimised)."""
        for _ in range(4):
            array, node = self._tensor(name), self.producer.get(name)
            if array is not None:
                return not array.any()
            if node is None or node.kind not in ("Expand", "CastLike", "Cast") or not node.inputs:
                return False
            name = node.inputs[0]
        return False

    def _batch_normalization(self, layer: arch.BatchNorm, node: Node) -> str:
        epsilon = node.number("epsilon", 1e-5)
        if abs(epsilon - arch.BATCHNORM_EPSILON) > EPSILON_ROUNDING:
            return f"epsilon is {epsilon:.3g}, not {arch.BATCHNORM_EPSILON:g}"
        if node.number("training_mode", 0):
            return "the normalisation is in training mode: it uses each batch's own statistics"
        for role, name in zip(layer.parameters, node.inputs[1:], strict=False):
            self._take(layer, role, name, self._tensor(name))
        return ""

    def _linear(self, layer: arch.Linear, node: Node) -> str:
        kernel = self._tensor(node.inputs[1]) if len(node.inputs) > 1 else None
        if kernel is None:
            return "the head's weights are not in the file"
        if node.kind == "MatMul" or (node.kind == "Gemm" and not node.number("transB", 0)):
            kernel = kernel.T
        if kernel.shape[:2] != (layer.units, layer.in_channels):
            return f"the head's weights have the shape {kernel.shape}"
        if any(node.number(name, 1.0) != 1.0 for name in ("alpha", "beta")) or node.number("transA", 0):
            return "the head's weights are scaled"
        self._take(layer, "kernel", node.inputs[1], kernel)
        if layer.bias and len(node.inputs) > 2:
            self._take(layer, "bias", node.inputs[2], self._tensor(node.inputs[2]))
        return ""

    def _biased(self, layer: arch.Linear, output: str) -> str:
        """The output behind the Add that follows a MatMul, whose bias is taken."""
        for name in self._aliases(output):
            for node in self.consumers[name]:
                if node.kind == "Add":
                    other = next((each for each in node.inputs if each != name), "")
                    if layer.bias:
                        self._take(layer, "bias", other, self._tensor(other))
                    return node.outputs[0] if node.outputs else output
        return output

    def _fold(self, layer: arch.BatchNorm) -> bool:
        """Whether ``layer`` was folded into the convolution before it; then it becomes one that does nothing."""
        convolution = layer.inputs[0]
        bias = torch_name(convolution, "bias")
        if bias not in self.result.arrays:
            return False  # nothing was added, so nothing can have been folded
        beta = self.result.arrays.pop(bias)
        self.result.folded.append(layer.name)
        for role in layer.parameters:
            name = torch_name(layer.name, role)
            self.result.arrays[name] = beta if role == "beta" else np.full(beta.shape, IDENTITY[role], np.float32)
        self.result.dtypes[torch_name(layer.name, "beta")] = self.result.dtypes.pop(bias)
        self.places[layer.name] = self.places[convolution]
        self.result.outputs[layer.name] = self.result.outputs.pop(convolution)
        return True

    def _take(self, layer: arch.Layer, role: str, source: str, array: np.ndarray | None) -> None:
        """Note ``array`` as the layer's; the dtypes follow, where it is not what the reader knows."""
        if array is None:
            raise DepartsError(f"at {layer.name} the {role} is computed in the graph and is not in the file")
        name = torch_name(layer.name, role)
        self.result.arrays[name] = array
        self.result.dtypes[name] = self.graph.dtypes.get(source, array.dtype.name)

    def _head(self, features: str) -> Head:
        """What stands on the features: told from the weights of the node after the pooling."""
        pool = arch.AveragePool("pool5_7x7_s1", (features,))
        for node, _ in self._candidates(pool):
            probe = replace(arch.Linear("head", (pool.name,), arch.FEATURES, 1))
            self.places[pool.name] = self._aliases(node.outputs[0])
            for linear, _ in self._candidates(probe):
                kernel = self._tensor(linear.inputs[1]) if len(linear.inputs) > 1 else None
                if kernel is not None and kernel.ndim >= 2 and kernel.size and arch.FEATURES in kernel.shape:
                    units = math.prod(kernel.shape) // arch.FEATURES
                    follows = (n.kind for name in self._aliases(linear.outputs[0]) for n in self.consumers[name])
                    biased = len(linear.inputs) > 2 or (linear.kind == "MatMul" and "Add" in follows)
                    return classifier(units) if biased else embedding(units)
        return NO_HEAD


def _sum(pads: list[int], padding: list[int]) -> list[int]:
    """Both together; what is no padding of a map's four sides stays as it is, to be told."""
    return [a + b for a, b in zip(pads, padding, strict=True)] if len(pads) == 4 else pads


__all__ = ["DepartsError", "Paired", "pair"]
