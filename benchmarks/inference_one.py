"""One side of the inference benchmark, as a process of its own: prints images per second as JSON.

python benchmarks/inference_one.py keras MODEL.h5 [BATCH]      (KERAS_BACKEND chooses the backend)
python benchmarks/inference_one.py torch SOURCE.pth [BATCH]
"""

import json
import os
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROUNDS = 7


def main(side: str, path: str, batch: int) -> None:
    from verify.images import natural_inputs

    images = natural_inputs(batch, seed=3)
    run = keras_side(path, images) if side == "keras" else torch_side(path, images)
    run()  # tracing, compiling, and the first touch of every page
    run()
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"images_per_second": batch / statistics.median(seconds), "best": batch / min(seconds)}))


def keras_side(path: str, images):
    import keras

    model = keras.models.load_model(path, compile=False)
    model.compile(jit_compile=os.environ.get("JIT", "") == "1")
    return lambda: model.predict_on_batch(images)


def torch_side(path: str, images):
    import torch

    from convert.readers import read_checkpoint
    from verify.references.torch_reference import reference_module

    module = reference_module(read_checkpoint(path), "float32")
    batch = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())

    def run():
        with torch.no_grad():
            return torch.softmax(module(batch), dim=1)

    return run


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 32)
