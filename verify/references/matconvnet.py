"""The graph that is stored in a MatConvNet file, run as it is stored: an independent witness of the architecture.

Strides, padding, order and connections come from the file alone; the architecture table serves to know which of its
layers to compare with which of ours. :mod:`verify.references.matconvnet_layers` has the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from convert.checkpoint import Checkpoint
from convert.readers.dagnn import DagLayer, number, numbers, read_dagnn
from convert.readers.dagnn_options import four, leak_of, method_of, two
from convert.readers.mat_file import names_in
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.networks.architecture import BATCHNORM_EPSILON
from verify.references import matconvnet_layers as layers

#: A stored sigma and one made from a float32 variance differ by two roundings of float32 at most.
SIGMA_RESOLUTION = 2.0**-23


class MatConvNetReference:
    """Runs images (height x width x channels) through the stored layers; every layer's output, in Keras's layout."""

    name = "matconvnet"
    title = "MatConvNet's stored graph, in NumPy"
    independent = True
    note = (
        "strides, padding, order and connections are the file's own, not this project's; the arithmetic shares no code "
        "with Keras or PyTorch"
    )

    def __init__(self, checkpoint: Checkpoint, dtype: str, path: Path) -> None:
        self.path, self.dtype = path, np.dtype(dtype)
        file = MappedFile(path)
        self.net = read_dagnn(file)
        self.names = names_in(file, self.net)
        self.table = checkpoint.architecture
        self.arrays = checkpoint.arrays
        self.order = self._order()
        self.params = {
            name: self.net.params[name].astype(np.float32).astype(self.dtype)
            for layer in self.order for name in layer.params if name in self.net.params
        }  # fmt: skip
        self.filters: dict[str, np.ndarray] = {}

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs of the stored layers that the architecture knows, by its names.

        Raises :class:`BadInputError` naming the layer when the stored graph cannot be run.
        """
        values = {self.image: np.ascontiguousarray(images, self.dtype)}
        waiting: dict[str, int] = {}
        for layer in self.order:
            for name in layer.inputs:
                waiting[name] = waiting.get(name, 0) + 1
        kept: dict[str, np.ndarray] = {}
        for layer in self.order:
            try:
                value = self._apply(layer, [values[name] for name in layer.inputs])
            except (ValueError, IndexError, KeyError) as error:
                raise BadInputError(f"{self.path}: the stored graph cannot be run: {layer.name}: {error}.") from None
            values[layer.outputs[0]] = value
            if self.names[layer.name] in self.table.by_name:
                kept[self.names[layer.name]] = value
            for name in layer.inputs:
                waiting[name] -= 1
                if not waiting[name]:
                    del values[name]
        return kept

    # --- the graph ------------------------------------------------------------------------------------------------

    def _order(self) -> list[DagLayer]:
        """The layers that the network's output depends on, each after its inputs; finds the image's variable."""
        made_by = {output: layer for layer in self.net.layers for output in layer.outputs}
        ends = [layer for layer in self.net.layers if self.names[layer.name] == self.table.output]
        if not ends:
            raise BadInputError(f"{self.path}: its graph has no layer called {self.table.output} to end with.")
        order: list[DagLayer] = []
        sources: set[str] = set()
        state: dict[str, bool] = {}  # False while a layer's inputs are being visited, True afterwards
        stack = [ends[0]]
        while stack:
            layer = stack[-1]
            before = [made_by[name] for name in layer.inputs if name in made_by]
            sources |= {name for name in layer.inputs if name not in made_by}
            fresh = [each for each in before if each.name not in state]
            if layer.name not in state and any(not state.get(each.name, True) for each in before):
                raise BadInputError(f"{self.path}: its graph has a cycle at {layer.name}.")
            state.setdefault(layer.name, False)
            if fresh:
                stack += fresh[:1]
                continue
            stack.pop()
            if not state[layer.name]:
                state[layer.name] = True
                order.append(layer)
        if len(sources) != 1:
            shown = ", ".join(sorted(sources)) or "none"
            raise BadInputError(f"{self.path}: its graph must have one input, the image; it has {shown}.")
        self.image = sources.pop()
        unknown = sorted({layer.type for layer in order if layer.type not in RULES})
        if unknown:
            first = next(layer for layer in order if layer.type == unknown[0])
            raise BadInputError(
                f"{self.path}: its graph has layers of kinds that are not known here ({', '.join(unknown)}; the first "
                f"is {first.name}), so it cannot be run as a reference."
            )
        return order

    def _param(self, layer: DagLayer, place: int) -> np.ndarray | None:
        return self.params.get(layer.params[place]) if place < len(layer.params) else None

    # --- the layers -----------------------------------------------------------------------------------------------

    def _apply(self, layer: DagLayer, inputs: list[np.ndarray]) -> np.ndarray:
        if not inputs:
            raise ValueError("it has no input")
        return RULES[layer.type](self, layer, inputs)

    def _conv(self, layer: DagLayer, inputs: list[np.ndarray]) -> np.ndarray:
        filters, bias = self._param(layer, 0), self._param(layer, 1)
        if filters is None:
            raise ValueError("it has no filters")
        if layer.name not in self.filters:
            size = numbers(layer.block.get("size"), filters.shape)
            if not all(0 < each <= filters.size and each == int(each) for each in size):
                raise ValueError(f"filters of the size {size}")
            extents = (*map(int, size), 1, 1, 1, 1)[:4]
            self.filters[layer.name] = filters.reshape(extents, order="F")
        has_bias = bool(number(layer.block.get("hasBias"), 1.0)) and bias is not None
        flat = bias.reshape(-1) if has_bias and bias is not None else None
        pad, stride = four(layer.block.get("pad")), two(layer.block.get("stride"))
        dilate = two(layer.block.get("dilate"))
        return layers.convolve(inputs[0], self.filters[layer.name], flat, pad, stride, dilate)

    def _batch_norm(self, layer: DagLayer, inputs: list[np.ndarray]) -> np.ndarray:
        multiplier, bias, moments = (self._param(layer, place) for place in range(3))
        if multiplier is None or bias is None or moments is None:
            raise ValueError("it lacks multipliers, biases or moments")
        sigma = self._sigma(self.names[layer.name], moments[:, 1])
        return layers.normalise(inputs[0], multiplier.reshape(-1), bias.reshape(-1), moments[:, 0], sigma)

    def _sigma(self, name: str, stored: np.ndarray) -> np.ndarray:
        """The stored sigmas; in float64 freed from the rounding that keeps them from being a float32 variance's.

        A target file holds variances, in float32, so sqrt(variance + epsilon) cannot be the stored float32 sigma to
        all of float64's digits. Where the two agree within float32's resolution that rounding is all there is between
        them, and is left out; where they do not, the stored sigma counts, and the comparison will be red.
        """
        variance = self.arrays.get(name, {}).get("moving_variance")
        if self.dtype != np.float64 or variance is None or variance.shape != stored.shape:
            return stored
        exact = np.sqrt(variance.astype(np.float64) + BATCHNORM_EPSILON)
        return np.where(np.abs(exact - stored) <= SIGMA_RESOLUTION * stored, exact, stored)

    def _pooling(self, layer: DagLayer, inputs: list[np.ndarray]) -> np.ndarray:
        method = method_of(layer)
        if method not in ("max", "avg"):
            raise ValueError(f"a pooling by {method!r}")
        size = two(layer.block.get("poolSize"))
        pad, stride = four(layer.block.get("pad")), two(layer.block.get("stride"))
        return layers.pool(inputs[0], method, size, pad, stride)

    def _global_pooling(self, layer: DagLayer, inputs: list[np.ndarray]) -> np.ndarray:
        method = method_of(layer)
        if method not in ("max", "avg"):
            raise ValueError(f"a pooling by {method!r}")
        reduced = inputs[0].max if method == "max" else inputs[0].mean
        result: np.ndarray = reduced(axis=(1, 2), keepdims=True)
        return result

    def _sum(self, _: DagLayer, inputs: list[np.ndarray]) -> np.ndarray:
        total = inputs[0]
        for each in inputs[1:]:
            if each.shape != total.shape:
                raise ValueError(f"a sum of maps {total.shape[1:]} and {each.shape[1:]}")
            total = total + each
        return total

    def _axpy(self, _: DagLayer, inputs: list[np.ndarray]) -> np.ndarray:
        gate, x, y = inputs
        result: np.ndarray = gate * x + y
        return result

    def _scale(self, layer: DagLayer, inputs: list[np.ndarray]) -> np.ndarray:
        operands = inputs + [_spread(self.params[name]) for name in layer.params if name in self.params]
        result: np.ndarray = operands[0] * operands[1]
        if number(layer.block.get("hasBias"), 1.0):
            result = result + operands[2]
        return result

    def _concat(self, layer: DagLayer, inputs: list[np.ndarray]) -> np.ndarray:
        axis = {1.0: 1, 2.0: 2, 3.0: 3, 4.0: 0}[number(layer.block.get("dim"), 3.0)]
        return np.concatenate(inputs, axis=axis)

    def _reshape(self, layer: DagLayer, inputs: list[np.ndarray]) -> np.ndarray:
        shape = layer.block.get("shape")
        extents: list[int | None]
        given = [number(each, -1) for each in shape] if isinstance(shape, list) else numbers(shape, (0, 0, 0))
        extents = [int(each) if np.isfinite(each) else None for each in given]  # {1, 1, []}
        return layers.reshape(inputs[0], extents[:3])

    def _flatten(self, layer: DagLayer, inputs: list[np.ndarray]) -> np.ndarray:
        return layers.flatten(inputs[0], {1.0: 1, 2.0: 2, 3.0: 3}[number(layer.block.get("axis"), 3.0)])


#: Kind of layer -> what runs it.
RULES: dict[str, Callable[[MatConvNetReference, DagLayer, list[np.ndarray]], np.ndarray]] = {
    "Conv": MatConvNetReference._conv,
    "BatchNorm": MatConvNetReference._batch_norm,
    "ReLU": lambda _, layer, inputs: layers.rectify(inputs[0], leak_of(layer)),
    "Sigmoid": lambda _, _layer, inputs: layers.sigmoid(inputs[0]),
    "Pooling": MatConvNetReference._pooling,
    "GlobalPooling": MatConvNetReference._global_pooling,
    "Sum": MatConvNetReference._sum,
    "Axpy": MatConvNetReference._axpy,
    "Scale": MatConvNetReference._scale,
    "Concat": MatConvNetReference._concat,
    "Reshape": MatConvNetReference._reshape,
    "Flatten": MatConvNetReference._flatten,
    "SoftMax": lambda _, _layer, inputs: layers.softmax(inputs[0]),
    "DropOut": lambda _, _layer, inputs: inputs[0],
}


def _spread(array: np.ndarray) -> np.ndarray:
    """A parameter with MATLAB's dimensions (height, width, channels) beside a batch."""
    return array.reshape((1, *array.shape, 1, 1, 1)[:4])
