"""``X.onnx``: the graph from the architecture table, made with onnx.helper; BatchNorm kept, nothing folded.

Tensors have PyTorch's names and node outputs the layers' names, so that every layer can be inspected and compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convert.checkpoint import Checkpoint
from convert.layouts import Slot, torch_layout
from ferplus_keras import PROVENANCE_KEY, __version__
from ferplus_keras.errors import OutputError
from ferplus_keras.networks import architecture as arch
from ferplus_keras.networks.architecture import INPUT_SIZE, Architecture, Shape, torch_name
from ferplus_keras.networks.keras_plan import PROBABILITIES
from ferplus_keras.networks.preprocessing import PUBLISHED

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

#: December 2020. Nothing here needs a newer one, and it is the oldest in which weights can be quantised per channel
#: (QuantizeLinear-13).
OPSET = 13

#: The version of the file format that came with that opset.
IR_VERSION = 7

#: The name of the free batch dimension.
BATCH = "N"

#: The input of a model with the preprocessing inside: RGB bytes.
PIXELS = "image"

#: Field numbers in onnx.proto: a model's graph, a graph's tensors, a tensor's bytes.
MODEL_GRAPH, GRAPH_INITIALIZER, TENSOR_RAW_DATA = 7, 5, 9


@dataclass(frozen=True)
class Images:
    """The input of a model."""

    channels_last: bool = False  #: height x width x channels
    pixels: bool = False  #: RGB bytes, from which the graph subtracts the mean
    batch: int | None = None  #: how many at a time; None: any number
    side: int = INPUT_SIZE  #: height and width


def write_onnx(
    checkpoint: Checkpoint,
    path: Path,
    *,
    activation: str | None,
    model_name: str,
    channels_last: bool = False,
    pixels: bool = False,
    batch: int | None = None,
) -> None:
    """Write ``checkpoint`` as an ONNX model.

    Args:
        checkpoint: the network.
        path: the file to write.
        activation: "softmax", or None for logits.
        model_name: the graph's name.
        channels_last: the input is images x 224 x 224 x 3 instead of images x 3 x 224 x 224; of another size where the
            network was trained on images of another.
        pixels: the preprocessing is inside: the input is RGB bytes.
        batch: how many images; None: any number.

    Raises:
        OutputError: the onnx package is not installed.
    """
    images = Images(channels_last, pixels, batch, checkpoint.provenance.side)
    model = onnx_model(checkpoint.architecture, images, activation=activation, name=model_name)
    entry = model.metadata_props.add()
    entry.key, entry.value = PROVENANCE_KEY, checkpoint.provenance.to_json()
    with path.open("wb") as stream:
        for piece in _serialized(model, checkpoint):
            stream.write(piece)


def onnx_arrays(checkpoint: Checkpoint) -> Iterator[tuple[str, np.ndarray]]:
    """The initialisers: every array under its PyTorch name and in PyTorch's shape; the head as a matrix."""
    for name, slot in torch_layout(checkpoint.architecture).items():
        yield name, slot.from_neutral(checkpoint.arrays[slot.layer][slot.role]).reshape(_shape(slot))


def _shape(slot: Slot) -> Shape:
    return slot.others[0] if slot.others else slot.shape


def onnx_model(
    architecture: Architecture,
    images: Images = Images(),
    *,
    activation: str | None = "softmax",
    name: str | None = None,
    outputs: Iterable[str] | None = None,
    keep_inputs: bool = False,
) -> ModelProto:
    """The model without its numbers: tensors are only declared, by name and shape.

    Args:
        architecture: the table.
        images: what goes in.
        activation: "softmax" or None; a network without a classifier has none.
        name: the graph's name; default the network's.
        outputs: layers whose outputs the model returns; default the last.
        keep_inputs: declare the tensors as inputs of the graph, to be fed when it is run.

    Returns:
        A model that ``onnx.checker`` has passed, shapes inferred.

    Raises:
        OutputError: the onnx package is not installed.
    """
    try:
        from onnx import TensorProto, checker, helper, shape_inference
    except ImportError:
        raise OutputError("ONNX files need the onnx package, which is not installed: pip install onnx.") from None

    def declared(name: str, shape: Iterable[int | str]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))

    nodes = list(_nodes(architecture, images.channels_last, images.pixels))
    last = architecture.output
    if architecture.head.kind == "classifier" and activation is not None:
        last = PROBABILITIES
        nodes.append(helper.make_node("Softmax", [architecture.output], [last], name=last, axis=1))
    extents = (images.side, images.side, 3) if images.channels_last else (3, images.side, images.side)
    tensors = [declared(slot.name, _shape(slot)) for slot in torch_layout(architecture).values()]
    kind, source = (TensorProto.UINT8, PIXELS) if images.pixels else (TensorProto.FLOAT, "data")
    data = helper.make_tensor_value_info(source, kind, [images.batch or BATCH, *extents])
    graph = helper.make_graph(nodes, name or architecture.network, [data, *tensors], [])
    model = helper.make_model(
        graph,
        producer_name="ferplus-keras",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        doc_string=f"{architecture}. Input: RGB, 0..255{'' if images.pixels else ' less the mean'} (see the metadata "
        f"{PROVENANCE_KEY!r}).",
    )
    # The shapes of all layers follow from the graph; an output is declared with the shape that was inferred.
    inferred = {info.name: info for info in shape_inference.infer_shapes(model, strict_mode=True).graph.value_info}
    wanted = list(outputs or [last])
    model.graph.output.extend(inferred[each] for each in wanted)
    model.graph.value_info.extend(info for each, info in inferred.items() if each not in wanted)
    checker.check_model(model, full_check=True)
    if not keep_inputs:
        del model.graph.input[1:]
    return model


def _nodes(architecture: Architecture, channels_last: bool, pixels: bool) -> Iterator[NodeProto]:
    from onnx import TensorProto, helper

    renamed = {}
    if pixels:  # in float32 and before any transposition: bit for bit what preprocess_input computes
        mean = helper.make_tensor(
            "mean", TensorProto.FLOAT, [3] if channels_last else [3, 1, 1], np.asarray(PUBLISHED.mean, np.float32)
        )
        yield helper.make_node("Cast", [PIXELS], ["pixels"], name="pixels", to=TensorProto.FLOAT)
        yield helper.make_node("Constant", [], ["mean"], name="mean", value=mean)
        yield helper.make_node("Sub", ["pixels", "mean"], ["data"], name="data")
    if channels_last:
        renamed["data"] = "data_nchw"
        yield helper.make_node("Transpose", ["data"], ["data_nchw"], name="data_nchw", perm=[0, 3, 1, 2])
    for layer in architecture.layers[1:]:
        yield from _translate(layer, [renamed.get(each, each) for each in layer.inputs], helper.make_node)


def _translate(layer: arch.Layer, inputs: list[str], make_node: Callable[..., Any]) -> Iterator[Any]:
    name = layer.name

    def node(kind: str, inputs: list[str], **attributes: Any) -> Any:
        return make_node(kind, inputs, [name], name=name, **attributes)

    tensors = [torch_name(name, role) for role in layer.parameters]
    match layer:
        case arch.Conv():
            yield node(
                "Conv", inputs + tensors,
                kernel_shape=[layer.kernel] * 2, strides=[layer.stride] * 2, pads=[layer.padding] * 4,
            )  # fmt: skip
        case arch.BatchNorm():
            yield node("BatchNormalization", inputs + tensors, epsilon=arch.BATCHNORM_EPSILON)
        case arch.ReLU():
            yield node("Relu", inputs)
        case arch.Sigmoid():
            yield node("Sigmoid", inputs)
        case arch.MaxPool():
            # ONNX's max pooling pads with minus infinity, so one row and column at the bottom and on the right do what
            # rounding up does, whatever the size: for an even one ceil((n-3)/2) = (n-2)/2 = floor((n+1-3)/2), for an
            # odd one all three are (n-3)/2. Converters that silently drop ceil_mode keep explicit pads.
            yield node(
                "MaxPool", inputs,
                kernel_shape=[layer.kernel] * 2, strides=[layer.stride] * 2, pads=[0, 0, 1, 1],
            )  # fmt: skip
        case arch.AveragePool() | arch.GlobalPool():
            # 7 x 7 over the 7 x 7 map of a 224 x 224 image is the global average.
            yield node("GlobalAveragePool", inputs)
        case arch.Scale():
            yield node("Mul", inputs)
        case arch.Add():
            yield node("Add", inputs)
        case arch.Dropout():
            ratio = make_node("Constant", [], [f"{name}_ratio"], name=f"{name}_ratio", value_float=layer.rate)
            yield ratio
            yield node("Dropout", [*inputs, f"{name}_ratio"])  # does nothing outside training
        case arch.Linear():
            flat = f"{inputs[0]}_flat"
            yield make_node("Flatten", inputs, [flat], name=flat, axis=1)
            yield node("Gemm", [flat, *tensors], transB=1)
        case _:
            raise TypeError(f"no ONNX operator is known for {type(layer).__name__} ({name})")


def _serialized(model: ModelProto, checkpoint: Checkpoint) -> Iterator[bytes]:
    """The bytes of ``model`` with the checkpoint's arrays as its initialisers; one array at a time is in memory.

    A protobuf message is a sequence of fields with lengths, so the tensors can follow the rest of the graph if their
    sizes are known.
    """
    from onnx import ModelProto, TensorProto

    leads = []
    size = 0
    for name, slot in torch_layout(checkpoint.architecture).items():
        count = 4 * math.prod(slot.shape)
        tensor = TensorProto(name=name, dims=_shape(slot), data_type=TensorProto.FLOAT).SerializeToString()
        tensor += _lead(TENSOR_RAW_DATA, count)
        leads.append(_lead(GRAPH_INITIALIZER, len(tensor) + count) + tensor)
        size += len(leads[-1]) + count
    graph = model.graph.SerializeToString()
    rest = ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    yield rest.SerializeToString()
    yield _lead(MODEL_GRAPH, len(graph) + size) + graph
    for lead, (_, array) in zip(leads, onnx_arrays(checkpoint), strict=True):
        yield lead
        yield array.astype("<f4", copy=False).tobytes()


def _lead(field: int, length: int) -> bytes:
    """The start of a length-delimited field (protobuf wire type 2): its number and its length, as varints."""
    result = bytearray()
    for value in (field << 3 | 2, length):
        while value > 0x7F:
            result.append(value & 0x7F | 0x80)
            value >>= 7
        result.append(value)
    return bytes(result)
