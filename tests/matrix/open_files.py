"""Open every file of a folder in the Keras at hand, predict, and hold the result against the folder's references.

Run by any interpreter that has a Keras and this repository on its path: ``python open_files.py FOLDER``. Prints JSON:
the versions, and for each file how it was opened and the largest difference of a probability, or what went wrong.
TF_USE_LEGACY_KERAS=1 means tf_keras. ``make files`` of the folder is tests/matrix/running.py's.
"""

import json
import sys
from pathlib import Path

import numpy as np

from ferplus_keras.applications.loading import load_weights
from ferplus_keras.compat import VGGFace, get_layer, utils
from ferplus_keras.compat.vggface import is_keras_3, keras_of
from ferplus_keras.networks.architecture import BODIES, architecture
from ferplus_keras.networks.building import model_from_plan
from ferplus_keras.networks.keras_vggface import keras3_name, their_name, vggface_plan
from ferplus_keras.networks.preprocessing import preprocess_input

keras = keras_of()
three = is_keras_3(keras)
folder = Path(sys.argv[1])
network = json.loads((folder / "about.json").read_text())["network"]
pixels = np.load(folder / "images.npy")
rgb = preprocess_input(pixels)
bgr = utils.preprocess_input(pixels, version=2)


def load_model(name):
    return keras.models.load_model(str(folder / name), compile=False)


def whole():
    return load_model("whole-standin.h5").predict(rgb, verbose=0)


def pixels_inside():
    return load_model("pixels-standin.h5").predict(pixels, verbose=0)


def native():
    return load_model("native-standin.keras").predict(rgb, verbose=0)


def native_pixels():
    return load_model("pixels-standin.keras").predict(pixels, verbose=0)


def native_weights():
    model = load_model("whole-standin.h5")
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    model.load_weights(str(folder / "native-standin.weights.h5"))
    return model.predict(rgb, verbose=0)


def by_name():
    model = load_model("whole-standin.h5")
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    load_weights(model, folder / "whole-standin.h5")
    return model.predict(rgb, verbose=0)


def compat():
    model = VGGFace(model=network, weights=folder / "whole-standin.h5")
    assert get_layer(model, "conv1/7x7_s2").weights[0].shape == (7, 7, 3, BODIES[network].stem)
    return model.predict(bgr, verbose=0)


def compat_of_old_weights():
    return VGGFace(model=network, weights=folder / "vggface-standin.h5").predict(bgr, verbose=0)


def vggfaces_own_graph():
    rename = keras3_name if three else their_name
    plan = vggface_plan(architecture(network), exact=False, rename=rename)
    model = model_from_plan(keras, plan, name="vggface")
    if three:  # where no name may have a slash, there is no such graph; its function there is all the same
        from ferplus_keras.files.keras_files import open_keras_file

        with open_keras_file(folder / "vggface-standin.h5") as file:
            for name, roles in file.layers.items():
                arrays = [array.read() for array in roles.values()]
                get_layer(model, name).set_weights(arrays)
    else:
        model.load_weights(str(folder / "vggface-standin.h5"), by_name=True)
    return model.predict(bgr, verbose=0)


WAYS = [
    ("whole-standin.h5", whole, "exact"),
    ("whole-standin.h5 by ferplus_keras.load_weights", by_name, "exact"),
    ("pixels-standin.h5", pixels_inside, "exact"),
    ("VGGFace(weights=whole-standin.h5)", compat, "exact"),
    ("VGGFace(weights=vggface-standin.h5)", compat_of_old_weights, "exact"),
    ("vggface-standin.h5 in keras_vggface's graph", vggfaces_own_graph, "inexact"),
]
if three:
    WAYS += [
        ("native-standin.keras", native, "exact"),
        ("pixels-standin.keras", native_pixels, "exact"),
        ("native-standin.weights.h5", native_weights, "exact"),
    ]

results = []
for name, way, reference in WAYS:
    wanted = np.load(folder / f"{reference}.npy")
    try:
        found = np.asarray(way())
        apart = float(np.abs(found - wanted).max()) if found.shape == wanted.shape else None
        same = apart is not None and bool((found.argmax(1) == wanted.argmax(1)).all())
        results.append({"way": name, "apart": apart, "passed": same and apart < 1e-4, "problem": ""})
    except Exception as error:  # whatever that version raises is the outcome
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        results.append({"way": name, "apart": None, "passed": False, "problem": line[:300]})

backend = keras.backend.backend()
print(json.dumps({"keras": f"{keras.__name__} {keras.__version__} on {backend}", "results": results}))
