"""The Keras models by name, on whichever backend Keras runs.

``ResNet50`` and ``SeNet50`` have the signature and the behaviour of ``keras.applications``' models. Every layer is
a stock Keras layer, so the models can be saved, loaded, cut and fine-tuned without this package.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import keras

from ferplus_keras.applications.loading import HEADS, LoadReport, assign, load_weights
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.keras_files import open_keras_file
from ferplus_keras.files.opening import is_file, need_no_address
from ferplus_keras.files.shipped import Shipped, shipped
from ferplus_keras.networks import architecture as arch
from ferplus_keras.networks.architecture import INPUT_SIZE, NO_HEAD, classifier, embedding
from ferplus_keras.networks.models import Activation, model_from_architecture
from ferplus_keras.networks.preprocessing import MIN_SIZE, trained_side

#: What stands for the trained weights in place of a path.
FERPLUS = "ferplus"


def ResNet50(  # noqa: N802  (the name people know from keras.applications)
    include_top: bool = True,
    weights: str | Path | None = None,
    input_tensor: Any = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    pooling: str | None = None,
    classes: int = 8,
    classifier_activation: Activation = "softmax",
    name: str = "resnet50",
    *,
    embedding_size: int | None = None,
    dropout: float = 0.0,
) -> keras.Model:
    """Albanie's ResNet50 for images preprocessed by :func:`ferplus_keras.preprocess_input`.

    Args:
        include_top: whether the classifier (and ``classifier_activation``) stand on the features.
        weights: path of a converted file (``.h5``, ``.weights.h5``, ``.keras``), "ferplus" for the weights that
            were trained here and come with the package, or None for random weights. With
            ``include_top=False`` the file's head, if it has one, is left out; everything else must match by name.
        input_tensor: a Keras tensor to build upon.
        input_shape: height, width, 3. Default the size that ``weights`` were trained at, else 224 x 224; any size when
            there is no top. Channels come last. Another size than the file's is warned about.
        pooling: without top: None for the 4-D feature map, "avg" or "max" for 2048 features.
        classes: number of classes of the top.
        classifier_activation: what follows the logits, as a layer called "prob"; None returns the logits.
        name: the model's name.
        embedding_size: a bias-free projection to that many dimensions in place of the classifier, as in
            VGGFace2's 128-D and 256-D networks.
        dropout: rate of the dropout where the published FERPlus networks had it (theirs: 0.5).

    Returns:
        A ``keras.Model``; its layers have Albanie's names (``conv2_1_1x1_reduce``, ``classifier``).

    Raises:
        ValueError: on arguments that do not go together.
        ferplus_keras.errors.BadInputError: when the file is damaged or does not match, layer by layer.

    A stand-in's made-up weights are loaded with a :class:`ferplus_keras.errors.StandInWarning`.
    """
    return build(
        "resnet50", include_top, weights, input_tensor, input_shape, pooling, classes, classifier_activation, name,
        embedding_size=embedding_size, dropout=dropout,
    )  # fmt: skip


def SeNet50(  # noqa: N802
    include_top: bool = True,
    weights: str | Path | None = None,
    input_tensor: Any = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    pooling: str | None = None,
    classes: int = 8,
    classifier_activation: Activation = "softmax",
    name: str = "senet50",
    *,
    embedding_size: int | None = None,
    dropout: float = 0.0,
) -> keras.Model:
    """Albanie's SE-ResNet50; the arguments are those of :func:`ResNet50`."""
    return build(
        "senet50", include_top, weights, input_tensor, input_shape, pooling, classes, classifier_activation, name,
        embedding_size=embedding_size, dropout=dropout,
    )  # fmt: skip


def build(
    network: str,
    include_top: bool = True,
    weights: str | Path | None = None,
    input_tensor: Any = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    pooling: str | None = None,
    classes: int = 8,
    classifier_activation: Activation = "softmax",
    name: str | None = None,
    *,
    embedding_size: int | None = None,
    dropout: float = 0.0,
) -> keras.Model:
    """The model of ``network`` ("resnet50" or "senet50"); the other arguments are those of :func:`ResNet50`."""
    trained_here = _shipped(network) if weights == FERPLUS else None
    if weights is not None and not trained_here and not is_file(weights):
        need_no_address(weights)
        raise ValueError(
            f"weights is 'ferplus', None or the path of a converted file, and there is no file {str(weights)!r}; "
            "`ferplus convert` makes one from a PyTorch checkpoint"
        )
    if embedding_size is not None and not include_top:
        raise ValueError("embedding_size asks for a top and include_top=False for none: choose one")
    if include_top and pooling is not None:
        raise ValueError("pooling is for include_top=False; the top does its own pooling")
    head = NO_HEAD
    if include_top:
        head = classifier(classes) if embedding_size is None else embedding(embedding_size)
    table = arch.architecture(network, head, dropout)
    trained = trained_here.size if trained_here else None if weights is None else trained_at(weights)
    shape = _checked_shape(input_shape, input_tensor, include_top, trained or INPUT_SIZE)
    if trained and include_top and shape[:2] != (trained, trained):
        warnings.warn(
            f"{weights} was trained on images of {trained} x {trained}, and the model takes {shape[0]} x {shape[1]}: "
            "its answers will be worse there. Leave input_shape out for the file's own size.",
            stacklevel=3,
        )
    model = model_from_architecture(
        table,
        input_tensor=input_tensor,
        input_shape=shape,
        pooling=pooling,
        activation=classifier_activation,
        name=name or network,
    )
    if trained_here:
        arrays = trained_here.arrays()
        layers = {name: model.get_layer(name) for name in table.parameters}
        names = {name: name for name in arrays}
        assign(model, layers, arrays, trained_here.path, names, () if include_top else HEADS)
    elif weights is not None:
        # Layers of the user's that stand before input_tensor may own weights too; the file knows nothing of them.
        load_weights(model, weights, skip_head=not include_top, layers=table.parameters)
    return model


def _shipped(network: str) -> Shipped:
    """The trained weights of ``network``. Raises :class:`BadInputError` when none come with the package."""
    found = next((each for each in shipped().values() if each.network == network), None)
    if found is None:
        others = ", ".join(each.title for each in shipped().values()) or "nothing"
        raise BadInputError(
            f"No trained {network} comes with this version; there is the {others}, which EmotionClassifier() uses. "
            "Give the path of a converted file as weights."
        )
    return found


def trained_at(path: str | Path) -> int | None:
    """The side of the images that the weights at ``path`` were trained on; None where the file does not say."""
    with open_keras_file(path) as file:
        wanted = (file.provenance or {}).get("preprocessing")
    return trained_side(wanted["size"]) if isinstance(wanted, dict) and "size" in wanted else None


def _checked_shape(
    shape: tuple[int | None, int | None, int] | None, tensor: Any, include_top: bool, side: int
) -> tuple[int | None, int | None, int]:
    if tensor is not None:
        shape = _shape_of(tensor, shape)
    if shape is None:
        return (side, side, 3) if include_top else (None, None, 3)
    if not isinstance(shape, tuple | list) or len(shape) != 3 or shape[-1] != 3:
        raise ValueError(
            f"the input is (height, width, 3) with the channels last, not {shape}; these networks take RGB, and a "
            "grey image is repeated to three channels"
        )
    for extent in shape[:2]:
        if extent is not None and extent < MIN_SIZE:
            raise ValueError(f"the input must be at least {MIN_SIZE} x {MIN_SIZE}, not {shape[0]} x {shape[1]}")
    if include_top and None in shape:
        raise ValueError(f"with a top the input size must be given in full, not {tuple(shape)}")
    return tuple(shape)  # type: ignore[return-value]


def _shape_of(tensor: Any, shape: tuple[int | None, int | None, int] | None) -> tuple[Any, ...]:
    """The shape of ``input_tensor`` without the batch; ``shape`` may be given beside it and must agree."""
    if not keras.backend.is_keras_tensor(tensor):
        raise ValueError(
            f"input_tensor is a Keras tensor (keras.Input, or a layer's output), not a {type(tensor).__name__}"
        )
    own = tuple(tensor.shape[1:])
    if shape is not None and shape not in (own, list(own)):
        raise ValueError(f"input_shape {shape} is not the shape of input_tensor, {own}: leave one of them out")
    return own


__all__ = ["LoadReport", "ResNet50", "SeNet50", "build", "load_weights"]
