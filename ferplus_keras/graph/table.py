"""Our architecture table as a graph: what every file is held against."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ferplus_keras.graph.building import Builder, Window
from ferplus_keras.graph.form import Graph, Shape
from ferplus_keras.networks import architecture as arch
from ferplus_keras.networks.architecture import Architecture


@dataclass(frozen=True)
class Place:
    """Where an array belongs: its shape and no numbers."""

    shape: Shape


@lru_cache(maxsize=32)
def table_graph(table: Architecture) -> Graph:
    """The graph of ``table``, its nodes under the layers' names. Dropout, which does nothing, is not in it."""
    builder = Builder()
    for layer in table.layers:
        _add(builder, layer)
    return builder.finish([table.output])


def _add(builder: Builder, layer: arch.Layer) -> None:
    name, kind, sources = layer.name, type(layer).__name__, layer.inputs
    arrays = {role: Place(shape) for role, shape in layer.parameters.items()}
    if isinstance(layer, arch.Input):
        builder.image(name, name)
    elif isinstance(layer, arch.Conv):
        window = Window((layer.kernel,) * 2, (layer.stride,) * 2, (layer.padding,) * 4)
        builder.convolution(name, name, "convolution", sources[0], arrays, layer.out_channels, window)
    elif isinstance(layer, arch.Linear):
        builder.convolution(name, name, "dense layer", sources[0], arrays, layer.units)
    elif isinstance(layer, arch.BatchNorm):
        builder.normalisation(name, name, "batch normalisation", sources[0], arrays, arch.BATCHNORM_EPSILON)
    elif isinstance(layer, arch.MaxPool):
        # Rounding the size up is one more row and column at the bottom and on the right, for any size:
        # ceil(x / 2) = floor((x + 1) / 2).
        builder.maximum(
            name, name, "max pooling", sources[0], (layer.kernel,) * 2, (layer.stride,) * 2,
            (0, layer.stride - 1, 0, layer.stride - 1),
        )  # fmt: skip
    elif isinstance(layer, (arch.AveragePool, arch.GlobalPool)):
        builder.whole(name, name, "average over the whole map", sources[0], "average")
    elif isinstance(layer, (arch.ReLU, arch.Sigmoid)):
        builder.activation(name, name, kind, sources[0], kind.lower())
    elif isinstance(layer, (arch.Scale, arch.Add)):
        builder.merge(name, name, kind, sources, {"Scale": "multiply", "Add": "add"}[kind])
    elif isinstance(layer, arch.Dropout):
        builder.same(name, sources[0])
    else:
        raise TypeError(f"no operation is known for {kind} ({name})")
