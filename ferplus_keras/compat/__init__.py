"""What code for keras_vggface 0.6 imports, with Albanie's exact geometry inside.

    from ferplus_keras.compat import VGGFace, utils          # was: from keras_vggface...
    model = VGGFace(model="resnet50", weights="ferplus")
    model.predict(utils.preprocess_input(images, version=2))

On Keras 2 (2.12 to 2.15, or tf_keras) the layers have keras_vggface's names: ``model.get_layer("conv1/7x7_s2")``.
Keras 3 forbids the slash; there ``compat.get_layer(model, "conv1/7x7_s2")`` finds the layer on either. Images are BGR
less the mean, as keras_vggface's are. The package runs on Python 3.9, where the oldest of these environments are.
"""

from __future__ import annotations

from ferplus_keras.compat import utils
from ferplus_keras.compat.utils import decode_predictions, preprocess_input
from ferplus_keras.compat.vggface import VGGFace, get_layer, layer_name

__all__ = ["VGGFace", "decode_predictions", "get_layer", "layer_name", "preprocess_input", "utils"]
