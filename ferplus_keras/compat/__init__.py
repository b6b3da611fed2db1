"""What code for keras_vggface 0.6 imports, with Albanie's exact geometry inside.

    from ferplus_keras.compat import VGGFace, utils          # was: from keras_vggface...
    model = VGGFace(model="resnet50", weights="ferplus")
    model.predict(utils.preprocess_input(images, version=2))

On Keras 2 (2.12 to 2.15, or tf_keras) the layers have keras_vggface's names: ``model.get_layer("conv1/7x7_s2")``.
Keras 3 forbids the slash; there ``compat.get_layer(model, "conv1/7x7_s2")`` finds the layer on either. Images are BGR
less the mean, as keras_vggface's are. The package runs on Python 3.9, where the oldest of these environments are.

Callers of the packages fer and deepface find ``FER``, ``DeepFace`` and ``analyze`` here: see
:mod:`ferplus_keras.compat.faces`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ferplus_keras.compat import utils
from ferplus_keras.compat.utils import decode_predictions, preprocess_input
from ferplus_keras.compat.vggface import VGGFace, get_layer, layer_name

if TYPE_CHECKING:
    from ferplus_keras.compat.faces import FER, DeepFace, analyze

#: What needs a network and a detector, and is imported where it is asked for: the rest runs on Python 3.9 without them.
LATER = ("FER", "DeepFace", "analyze")

__all__ = [
    "FER", "DeepFace", "VGGFace", "analyze", "decode_predictions", "get_layer", "layer_name", "preprocess_input",
    "utils",
]  # fmt: skip


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name in LATER:
        from ferplus_keras.compat import faces

        return getattr(faces, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
