"""What of a TensorFlow Lite file the interpreter is given: one graph of known operators, in order, with known options.

The interpreter trusts its files. A stride of zero, an operator of somebody's own, a tensor that nothing makes are
refused here; what is left runs in a process of its own (:mod:`ferplus_keras.engines.tflite_engine`).
"""

from __future__ import annotations

import math
from pathlib import Path

from ferplus_keras.engines.budget import Budget
from ferplus_keras.errors import BadInputError, DamagedError
from ferplus_keras.files.flatbuffer import Table
from ferplus_keras.files.tflite_file import OPTIONS, Operator, TfliteModel
from ferplus_keras.wording import counted

#: Operators of the networks: builtin code -> (name, least and largest number of inputs, the number of its options).
OPERATORS: dict[int, tuple[str, int, int, int]] = {
    0: ("ADD", 2, 2, 11), 1: ("AVERAGE_POOL_2D", 1, 1, 5), 2: ("CONCATENATION", 1, 64, 10), 3: ("CONV_2D", 2, 3, 1),
    4: ("DEPTHWISE_CONV_2D", 2, 3, 2), 6: ("DEQUANTIZE", 1, 1, 38), 9: ("FULLY_CONNECTED", 2, 3, 8),
    14: ("LOGISTIC", 1, 1, 0), 17: ("MAX_POOL_2D", 1, 1, 5), 18: ("MUL", 2, 2, 21), 19: ("RELU", 1, 1, 0),
    20: ("RELU_N1_TO_1", 1, 1, 0), 21: ("RELU6", 1, 1, 0), 22: ("RESHAPE", 1, 2, 17), 25: ("SOFTMAX", 1, 1, 9),
    28: ("TANH", 1, 1, 0), 34: ("PAD", 2, 2, 22), 39: ("TRANSPOSE", 2, 2, 26), 40: ("MEAN", 2, 2, 27),
    41: ("SUB", 2, 2, 28), 42: ("DIV", 2, 2, 29), 43: ("SQUEEZE", 1, 1, 30), 45: ("STRIDED_SLICE", 4, 4, 32),
    53: ("CAST", 1, 1, 37), 54: ("PRELU", 2, 2, 0), 55: ("MAXIMUM", 2, 2, 39), 57: ("MINIMUM", 2, 2, 39),
    60: ("PADV2", 3, 3, 43), 70: ("EXPAND_DIMS", 2, 2, 52), 74: ("SUM", 2, 2, 27), 77: ("SHAPE", 1, 1, 55),
    82: ("REDUCE_MAX", 2, 2, 27), 83: ("PACK", 1, 8, 59), 98: ("LEAKY_RELU", 1, 1, 75), 114: ("QUANTIZE", 1, 1, 89),
    117: ("HARD_SWISH", 1, 1, 91), 130: ("BROADCAST_TO", 2, 2, 104),
}  # fmt: skip

#: Of options with a window: fields of strides and dilations, of the window, of the padding (0 or 1) and activation.
WINDOWS = {1: ((1, 2, 4, 5), (), 0, 3), 2: ((1, 2, 3, 5, 6), (), 0, 4), 5: ((1, 2), (3, 4), 0, 5)}

#: Elsewhere the activation that is computed along with an operator.
ACTIVATIONS = {8: 0, 10: 1, 11: 0, 21: 0, 28: 0, 29: 0}

MAX_STEP, MAX_WINDOW, MAX_ACTIVATION = 16, 1024, 5


def check_model(path: Path, model: TfliteModel) -> None:
    """Raises :class:`BadInputError` saying why the interpreter is not given the file."""
    if model.custom:
        raise BadInputError(
            f"{path} needs operators that are not TensorFlow Lite's own ({', '.join(model.custom[:4])[:200]}); these "
            "networks have none, and it is not run."
        )
    if model.graphs != 1 or len(model.inputs) != 1 or not model.outputs or min(*model.inputs, *model.outputs) < 0:
        raise BadInputError(
            f"{path} has {counted(model.graphs, 'graph')}, {counted(len(model.inputs), 'input')} and "
            f"{counted(len(model.outputs), 'output')}: it is not a network of one input."
        )
    if any(each.dtype == "?" for each in model.tensors):
        raise BadInputError(f"{path} has tensors that are not numbers, so it is not run.")
    images = model.tensors[model.inputs[0]].shape
    budget = Budget(max(images[:1], default=1), max(images[1:], default=1))
    ready = set(model.inputs) | {index for index, each in enumerate(model.tensors) if each.constant}
    for place, operator in enumerate(model.operators):
        try:
            _check_operator(operator, model, ready, budget)
        except DamagedError as error:
            name = OPERATORS.get(operator.code, (f"of the kind {operator.code}",))[0]
            raise BadInputError(f"{path} is not run: its operator {place}, {name}: {error}.") from None
        ready |= set(operator.outputs)
    if not set(model.outputs) <= ready:
        raise BadInputError(f"{path} is not run: nothing in it produces its output.")


def _check_operator(operator: Operator, model: TfliteModel, ready: set[int], budget: Budget) -> None:
    known = OPERATORS.get(operator.code)
    if known is None:
        raise DamagedError("these networks have no such operator")
    _, least, most, options = known
    if not least <= len(operator.inputs) <= most or len(operator.outputs) != 1:
        raise DamagedError(f"{counted(len(operator.inputs), 'input')} and {counted(len(operator.outputs), 'output')}")
    optional = operator.inputs[2:] if operator.code in (3, 4, 9) else []  # a bias may be left out
    if not {each for each in operator.inputs if each != -1 or each not in optional} <= ready:
        raise DamagedError("nothing before it produces its input")
    if operator.outputs[0] in ready or operator.outputs[0] == -1:
        raise DamagedError("its output already exists")
    if operator.options_type not in (0, options) or (operator.options_type == 0) != (operator.options is None):
        raise DamagedError("its options are another operator's")
    if operator.options is not None:
        _check_options(operator.options_type, operator.options)
    elif options in WINDOWS:
        raise DamagedError("it says nothing of its window")
    made = model.tensors[operator.outputs[0]].shape
    work = 0
    if operator.code in (3, 4, 9):  # multiplications for each number that comes out
        kernel = model.tensors[operator.inputs[1]].shape
        work = math.prod(made) * math.prod(kernel[1:3] if operator.code == 4 else kernel[1:])
    budget.made([made], work)
    budget.gone(made)  # when each is needed no more is the interpreter's to find out; its process has a bound


def _check_options(kind: int, options: Table) -> None:
    if kind in WINDOWS:
        steps, windows, padding, activation = WINDOWS[kind]
        # Dilations, behind the strides, are 1 where they are left out.
        if any(not 1 <= options.scalar(field, "<i", int(field > 3)) <= MAX_STEP for field in steps):
            raise DamagedError("its stride is not valid")
        if any(not 1 <= options.scalar(field, "<i") <= MAX_WINDOW for field in windows):
            raise DamagedError("its window is not valid")
        if options.scalar(padding, "<B") > 1:
            raise DamagedError("its padding is not valid")
    else:
        activation = ACTIVATIONS.get(kind, -1)
    if activation >= 0 and options.scalar(activation, "<B") > MAX_ACTIVATION:
        raise DamagedError("its activation is not valid")


assert all(each[3] in OPTIONS or each[3] == 0 for each in OPERATORS.values())
