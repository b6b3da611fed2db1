"""From typing `ferplus predict` on one image to its end, against the bare import of what runs the network.

    python -m benchmarks.predict_startup [--rounds 5] [--json]

Each is a process of its own, in turn; medians count. Beside them: the same answer by the shortest script that uses the
runtime as its own documentation does.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from benchmarks import harness
from benchmarks.harness import Cost, Row

#: The bare imports, and the textbook's way to one answer.
IMPORTS = {"h5": "import keras", "onnx": "import onnxruntime"}
SCRIPTS = {
    "h5": """
import sys, keras, numpy as np
model = keras.models.load_model(sys.argv[1], compile=False)
face = keras.utils.img_to_array(keras.utils.load_img(sys.argv[2], target_size=(224, 224), interpolation="bilinear"))
print(model.predict(face[None] - [131.0912, 103.8827, 91.4953], verbose=0))
""",
    "onnx": """
import sys, onnxruntime, numpy as np
from PIL import Image
session = onnxruntime.InferenceSession(sys.argv[1])
face = np.asarray(Image.open(sys.argv[2]).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR), np.float32)
face -= np.float32([131.0912, 103.8827, 91.4953])
print(session.run(None, {session.get_inputs()[0].name: face.transpose(2, 0, 1)[None]}))
""",
}


def measure(rounds: int = 5) -> dict[str, list[Row]]:
    """ResNet50 as a Keras and as an ONNX file."""
    source = harness.standin("resnet50")
    face = harness.WORK / "face.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)).save(face)
    rows = []
    for suffix, imports in IMPORTS.items():
        model = harness.WORK / f"resnet50-standin.{suffix}"
        harness.run("-m", "convert", source, model)
        ways: dict[str, tuple[object, ...]] = {
            "bare import, s": ("-c", imports),
            "ferplus predict, s": ("-m", "ferplus_keras", "predict", model, face),
            "plain script, s": ("-c", SCRIPTS[suffix], model, face),
        }  # fmt: skip
        costs: dict[str, list[Cost]] = {name: [] for name in ways}
        for _ in range(rounds + 1):  # the first fills caches and does not count
            for name, words in ways.items():
                costs[name].append(harness.run(*words, KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3"))
        found = {name: harness.median(each[1:]) for name, each in costs.items()}
        bare, ours, _ = found.values()
        rows.append(
            {"file": f".{suffix}"} | {name: cost.seconds for name, cost in found.items()}
            | {"ratio": ours.seconds / bare.seconds, "peak, MB": ours.peak}
        )  # fmt: skip
    return {"one image, ResNet50, from start to end of the process": rows}


if __name__ == "__main__":
    harness.command(measure)
