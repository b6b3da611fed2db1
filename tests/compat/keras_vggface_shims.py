"""keras_vggface 0.6 was written for Keras 2.2: modules that it imports and Keras 2.15 has moved, put in their place.

Run inside the Keras 2.15 environment, before ``import keras_vggface``. The package itself stays as it was published.
"""

import sys
import types

import keras
from keras import utils
from keras.utils import get_file, get_source_inputs


def _module(name, **members):
    module = types.ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module
    return module


utils.data_utils = _module("keras.utils.data_utils", get_file=get_file)
utils.layer_utils = _module("keras.utils.layer_utils", get_source_inputs=get_source_inputs)
keras.engine = _module("keras.engine")
keras.engine.topology = _module("keras.engine.topology", get_source_inputs=get_source_inputs)
