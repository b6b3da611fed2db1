"""From typing `ferplus predict` on one image to its end, against the bare import of what runs the network.

    python -m benchmarks.predict_startup [--rounds 5] [--json]

Each is a process of its own, in turn; medians count. Beside them: the same answer by the shortest script that uses the
runtime as its own documentation does.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from benchmarks.measure import machine, median, run
from benchmarks.standins import WORK, standin
from convert.conversion import convert

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


def measure(rounds: int) -> dict[str, Any]:
    import numpy as np
    from PIL import Image

    source = standin("resnet50", legacy=True)
    face = WORK / "face.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)).save(face)
    rows = []
    environment = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    for format in ("h5", "onnx"):
        model = WORK / f"resnet50-standin.{format}"
        convert(source, [model])
        sides: dict[str, list[Any]] = {"import": [], "predict": [], "script": []}
        for _ in range(rounds + 1):  # the first fills caches and does not count
            sides["import"].append(run("-c", IMPORTS[format], **environment))
            sides["predict"].append(run("-m", "ferplus_keras.cli", "predict", model, face, **environment))
            sides["script"].append(run("-c", SCRIPTS[format], model, face, **environment))
        bare, ours, script = (median(costs[1:]) for costs in sides.values())
        rows.append(
            {"format": format, "import": bare.seconds, "predict": ours.seconds, "script": script.seconds,
             "ratio": ours.seconds / bare.seconds, "peak": ours.peak}
        )  # fmt: skip
    return {"machine": machine(), "rounds": rounds, "formats": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.rounds)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{result['machine']}; one image, ResNet50, seconds from start to end of the process")
    print("file     bare import   ferplus predict   ratio   plain script      peak")
    for row in result["formats"]:
        print(
            f".{row['format']:<8}{row['import']:>10.2f}{row['predict']:>18.2f}{row['ratio']:>8.2f}{row['script']:>15.2f}"
            f"{row['peak'] / 1e6:>7.0f} MB"
        )


if __name__ == "__main__":
    main()
