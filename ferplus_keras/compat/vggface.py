"""``VGGFace`` with keras_vggface 0.6's signature: its names and its channel order, Albanie's geometry."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from ferplus_keras.applications.loading import HEADS, Arrays, LoadReport, assign, neutral_layers
from ferplus_keras.errors import BadInputError, warn_of_standin
from ferplus_keras.files.folders import output_folder
from ferplus_keras.files.keras_files import open_keras_file
from ferplus_keras.files.opening import need_no_address
from ferplus_keras.files.shipped import shipped, shipped_at
from ferplus_keras.networks import architecture as arch
from ferplus_keras.networks.architecture import INPUT_SIZE, NETWORKS, NO_HEAD, classifier
from ferplus_keras.networks.building import model_from_plan
from ferplus_keras.networks.keras_vggface import (
    CLASSIFIER,
    CONV1,
    keras3_name,
    our_name,
    their_name,
    turned,
    vggface_plan,
)
from ferplus_keras.packages import naming_missing
from ferplus_keras.quiet import import_keras

#: Name of a set of weights -> (names of the converted file without suffix, number of classes).
KNOWN = {
    "ferplus": (("{network}_ferplus",), 8),
    "vggface": (("{network}_vggface2", "{network}_vggface2_scratch"), 8631),
}
SUFFIXES = (".h5", ".keras")

#: The smallest side that leaves the 7 x 7 map that ``avg_pool`` looks at (keras_vggface asks for 197 in SENet50).
MIN_SIZE = 195


def VGGFace(  # noqa: N802  (keras_vggface's name)
    include_top: bool = True,
    model: str = "vgg16",
    weights: str | Path | None = "vggface",
    input_tensor: Any = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    pooling: str | None = None,
    classes: int | None = None,
) -> Any:
    """keras_vggface's function: the same arguments, layer names and outputs, the padding and epsilon as published.

    Args:
        include_top: whether the softmax ``classifier`` stands on the features.
        model: "resnet50" or "senet50". ("vgg16", the original's default, is not one of these networks.)
        weights: "ferplus" or "vggface" (VGGFace2) for a converted file in ``weights/output``, or for "ferplus" what was
            trained here and comes with the package; a path; None for random.
        input_tensor: a tensor of the same Keras to build upon, BGR less the mean.
        input_shape: height, width, 3, at least 195 each; 224 x 224 with the top.
        pooling: without top: "avg" or "max" for 2048 features, None for ``avg_pool`` itself, 1 x 1 x 2048.
        classes: of the top. Default: as many as the weights have, 8631 where there are none.

    Returns:
        A model of the Keras in use: ``input_tensor``'s, else tf_keras where TF_USE_LEGACY_KERAS is set, else keras.

    Raises:
        ValueError: on arguments that do not go together.
        BadInputError: when the weights are not there or do not fit; nothing was loaded.
    """
    if model not in NETWORKS:
        raise ValueError(
            f"model is {' or '.join(map(repr, NETWORKS))}, not {model!r}: FERPlus and VGGFace2 have no VGG16 here"
        )
    keras = keras_of(input_tensor)
    path = None if weights is None else _path(model, weights)
    if classes is None:
        classes = _classes(weights, path)
    table = arch.architecture(model, classifier(classes) if include_top else NO_HEAD)
    plan = vggface_plan(
        table,
        exact=True,
        rename=keras3_name if is_keras_3(keras) else their_name,
        input_shape=_shape(input_shape, include_top),
        pooling=None if include_top else pooling,
    )
    built = model_from_plan(keras, plan, name=f"vggface_{model}", input_tensor=input_tensor)
    if path is not None:
        load(built, path, {layer.name for layer in plan}, skip_head=not include_top)
    return built


def load(model: Any, path: Path, layers: set[str], *, skip_head: bool) -> LoadReport:
    """Put the weights in ``path``, of whatever kind, into a model of :func:`VGGFace`; all or nothing.

    Raises :class:`BadInputError` when they do not fit.
    """
    arrays, names, standin = _stored(model, path)
    arrays[CONV1] = {role: turned(array) for role, array in arrays[CONV1].items()}
    others = [key for key in names if key not in map(our_name, layers)]
    left = HEADS | set(others[:1]) if len(others) == 1 else HEADS  # a head of any name, when it is all that is left
    wanted = {layer.name: layer for layer in model.layers if layer.weights and layer.name in layers}
    report = assign(model, wanted, arrays, path, names, left if skip_head else ())
    if standin:
        warn_of_standin(path, stacklevel=3)
    return report


def _stored(model: Any, path: Path) -> tuple[Arrays, dict[str, str], bool]:
    """The arrays in ``path`` under our names, our name -> the file's, and whether they are a stand-in's."""
    if path.suffix == ".safetensors" and (trained := shipped_at(path)):
        arrays = trained.arrays()
        return arrays, {name: name for name in arrays}, False
    with open_keras_file(path) as file:
        try:
            arrays, names = neutral_layers(file)
        except BadInputError as error:
            raise BadInputError(f"{path} does not fit {model.name}: {error}. Nothing was loaded.") from None
        return arrays, names, (file.provenance or {}).get("standin") is True


def get_layer(model: Any, name: str) -> Any:
    """The layer that keras_vggface calls ``name`` ("conv1/7x7_s2"), on Keras 2 and on Keras 3.

    Raises ``ValueError`` when there is none.
    """
    for each in (name, layer_name(model, name)):
        if any(layer.name == each for layer in model.layers):
            return model.get_layer(each)
    raise ValueError(f"{model.name} has no layer {name!r}, nor {layer_name(model, name)!r}")


def layer_name(model: Any, name: str) -> str:
    """What ``model`` calls the layer that keras_vggface, or Albanie, calls ``name``."""
    has_slashes = any("/" in layer.name for layer in model.layers)
    return (their_name if has_slashes else keras3_name)(our_name(name))


def keras_of(tensor: Any = None) -> Any:
    """The Keras to build with: the tensor's own, else tf_keras where TF_USE_LEGACY_KERAS asks for it, else keras."""
    legacy = os.environ.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true")
    if tensor is not None:
        legacy = type(tensor).__module__.startswith("tf_keras")
    if not legacy:
        import_keras()
    with naming_missing():
        return import_module("tf_keras" if legacy else "keras")


def is_keras_3(keras: Any) -> bool:
    return not str(keras.__version__).startswith(("1.", "2.")) and keras.__name__ != "tf_keras"


def _path(network: str, weights: str | Path) -> Path:
    """The file that ``weights`` means. Raises :class:`BadInputError` when it is not there."""
    if str(weights) not in KNOWN:
        if Path(weights).is_file():
            return Path(weights)
        need_no_address(weights)
        raise BadInputError(
            f"weights is 'ferplus', 'vggface', None or the path of a file, and there is no file {str(weights)!r}. "
            "`ferplus convert` makes one."
        )
    stems = [stem.format(network=network) for stem in KNOWN[str(weights)][0]]
    trained = next((each.path for each in shipped().values() if each.network == network), None)
    for stem in (*stems, *(f"{stem}-trained" for stem in stems), *(f"{stem}-standin" for stem in stems)):
        if stem.endswith("-standin") and trained and weights == "ferplus":
            return trained
        for suffix in SUFFIXES:
            path = output_folder() / f"{stem}{suffix}"
            if path.is_file():
                return path
    how = "run `make convert`" if weights == "ferplus" else (
        f"fetch and convert VGGFace2's: `ferplus fetch {stems[0]}`, then `ferplus convert` to {stems[0]}.h5 there"
    )  # fmt: skip
    raise BadInputError(f"There is no {stems[0]}.h5 in {output_folder()}: {how}, or give a path.")


def _classes(weights: str | Path | None, path: Path | None) -> int:
    if weights is None:
        return KNOWN["vggface"][1]
    if str(weights) in KNOWN:
        return KNOWN[str(weights)][1]
    assert path is not None
    with open_keras_file(path) as file:
        bias = file.layers.get(CLASSIFIER, {}).get("bias")
        if bias is not None and len(bias.shape) == 1 and bias.shape[0]:
            return bias.shape[0]
    return KNOWN["vggface"][1]  # without a head; it matters only where a top is asked for, and then nothing fits


def _shape(shape: Any, include_top: bool) -> tuple[int | None, int | None, int]:
    if shape is None:
        return (INPUT_SIZE, INPUT_SIZE, 3)
    if len(shape) != 3 or shape[-1] != 3:
        raise ValueError(f"input_shape is (height, width, 3), not {shape}")
    if include_top and tuple(shape[:2]) != (INPUT_SIZE, INPUT_SIZE):
        raise ValueError(f"with the top, input_shape is (224, 224, 3), not {shape}")
    if any(side is not None and side < MIN_SIZE for side in shape[:2]):
        raise ValueError(f"avg_pool looks at 7 x 7, so images are at least {MIN_SIZE} x {MIN_SIZE}, not {shape}")
    return tuple(shape)  # type: ignore[return-value]
