"""Samuel Albanie's FERPlus networks in Keras: graphs, weights, preprocessing, labels.

    import ferplus_keras
    model = ferplus_keras.ResNet50(weights="weights/output/resnet50_ferplus.h5")
    ferplus_keras.decode_predictions(model.predict(ferplus_keras.preprocess_input(images)))

Names are loaded on first use: neither Keras nor a backend is imported by ``import ferplus_keras`` itself.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

#: Root attribute (HDF5), metadata key (.safetensors, .pth) and, with .json, zip member (.keras) of our provenance.
PROVENANCE_KEY = "ferplus_keras"
PROVENANCE_MEMBER = f"{PROVENANCE_KEY}.json"

#: What every HDF5 file begins with.
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"

_HOME = {
    "ResNet50": "ferplus_keras.applications.models",
    "SeNet50": "ferplus_keras.applications.models",
    "build": "ferplus_keras.applications.models",
    "load_weights": "ferplus_keras.applications.loading",
    "architecture": "ferplus_keras.networks.architecture",
    "preprocess_input": "ferplus_keras.networks.preprocessing",
    "load_image": "ferplus_keras.predict.decoding",
    "EMOTIONS": "ferplus_keras.networks.emotions",
    "decode_predictions": "ferplus_keras.networks.emotions",
    "EmotionClassifier": "ferplus_keras.predict.classifier",
    "load_ferplus": "ferplus_keras.dataset",
    "convert": "convert.conversion",
}
__all__ = [*_HOME, "__version__"]

if TYPE_CHECKING:
    from convert.conversion import convert as convert
    from ferplus_keras.applications.loading import load_weights as load_weights
    from ferplus_keras.applications.models import ResNet50 as ResNet50
    from ferplus_keras.applications.models import SeNet50 as SeNet50
    from ferplus_keras.applications.models import build as build
    from ferplus_keras.dataset import load_ferplus as load_ferplus
    from ferplus_keras.networks import architecture as architecture
    from ferplus_keras.networks.emotions import EMOTIONS as EMOTIONS
    from ferplus_keras.networks.emotions import decode_predictions as decode_predictions
    from ferplus_keras.networks.preprocessing import preprocess_input as preprocess_input
    from ferplus_keras.predict.classifier import EmotionClassifier as EmotionClassifier
    from ferplus_keras.predict.decoding import load_image as load_image


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _HOME[name].startswith("ferplus_keras.applications"):
        from ferplus_keras.quiet import import_keras

        import_keras()
    from ferplus_keras.packages import naming_missing

    with naming_missing():
        module = import_module(_HOME[name])
    return module if name == "architecture" else getattr(module, name)
