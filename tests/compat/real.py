"""Run by Keras 2.15 with keras_vggface 0.6: its graph, our file. Arguments: the file, images, a folder, our exact file.

Prints JSON. What it saves in the folder is what old scripts leave behind.
"""

import json
import sys
from pathlib import Path

import keras_vggface_shims  # noqa: F401  (first: it puts the moved modules in place)
import numpy as np
from keras import Model, Sequential
from keras.layers import Dense, Dropout
from keras_vggface.utils import preprocess_input
from keras_vggface.vggface import VGGFace

from ferplus_keras.applications.loading import load_weights
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.architecture import architecture
from ferplus_keras.networks.keras_vggface import their_name, vggface_plan

weights, images, folder, exact = sys.argv[1:]
network = "senet50" if "senet50" in Path(weights).name else "resnet50"
pixels = np.load(images)
batch = preprocess_input(pixels.astype("float32"), version=2)

model = VGGFace(model=network, weights=None, classes=8)
plan = vggface_plan(architecture(network), exact=False, rename=their_name)
found = {
    "layers": [[layer.name, type(layer).__name__] for layer in model.layers if layer.weights],
    "planned": [[layer.name, layer.class_name] for layer in plan if layer.weights],
    "classes": [type(layer).__name__ for layer in model.layers] == [layer.class_name for layer in plan],
    "epsilons": sorted({layer.epsilon for layer in model.layers if hasattr(layer, "epsilon")}),
    "planned_epsilons": sorted({layer.config["epsilon"] for layer in plan if "epsilon" in layer.config}),
}
fresh = [weight.copy() for weight in model.get_weights()]
for weight in model.weights:
    weight.assign(np.full(weight.shape, np.nan, np.float32))  # whatever is not loaded stays NaN, and is seen
model.load_weights(weights, by_name=True)
by_name = model.get_weights()
found["loaded"] = all(np.isfinite(weight).all() for weight in by_name)
predicted = model.predict(batch, verbose=0)
np.save(Path(folder) / f"{network}-real.npy", predicted)
found["fed_rgb"] = float(np.abs(model.predict(np.ascontiguousarray(batch[..., ::-1]), verbose=0) - predicted).max())

model.set_weights(fresh)
model.load_weights(weights)
found["by_position"] = all(map(np.array_equal, model.get_weights(), by_name))
model.set_weights(fresh)
found["report"] = str(load_weights(model, weights))
found["ours"] = all(map(np.array_equal, model.get_weights(), by_name))
try:
    load_weights(model, exact)
    found["wrong_kind"] = ""
except BadInputError as error:
    found["wrong_kind"] = str(error)

base = VGGFace(model=network, weights=None, include_top=False, input_shape=(224, 224, 3), pooling="avg")
base.load_weights(weights, by_name=True)
head = model.get_layer("classifier").get_weights()
top = Dense(8, activation="softmax", name="dense")
functional = Model(base.input, top(Dropout(0.3)(base.output)))
top.set_weights(head)
nested = Sequential([base, Dense(8, activation="softmax", name="dense_1")])
nested.layers[-1].set_weights(head)
functional.save(Path(folder) / f"{network}-functional.h5")
nested.save(Path(folder) / f"{network}-nested.hdf5")
functional.save_weights(Path(folder) / f"{network}-weights.h5")
print(json.dumps(found))
