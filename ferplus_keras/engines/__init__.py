"""Whatever runs a network's file, behind one protocol: ``open_engine(path)`` gives an :class:`Engine`.

Native libraries see a file only after a reader of this project's has understood it: known operations, known sizes, no
other files (``onnx_policy``, ``tflite_policy``, ``saved_model``).
"""

from ferplus_keras.engines.engine import Engine
from ferplus_keras.engines.opening import open_engine

__all__ = ["Engine", "open_engine"]
