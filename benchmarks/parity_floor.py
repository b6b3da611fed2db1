"""The forward passes that a parity check cannot do without, and nothing else: logits in both precisions on both sides.

python benchmarks/parity_floor.py MODEL.h5 SOURCE.pth IMAGES
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"


def main(model_path: str, source_path: str, count: int) -> None:
    import keras
    import torch

    from convert.readers import read_checkpoint
    from verify.images import natural_inputs
    from verify.keras_trace import retyped
    from verify.references.torch_reference import as_torch, reference_module

    images = natural_inputs(count)
    model = keras.models.load_model(model_path, compile=False)
    for dtype in ("float64", "float32"):
        copy = model.__class__.from_config(retyped(model.get_config(), dtype))
        copy.set_weights(model.get_weights())
        module = reference_module(read_checkpoint(source_path), dtype)
        for image in images.astype(dtype):
            copy(image[None], training=False)
            with torch.no_grad():
                module(as_torch(image[None], dtype))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
