"""An interpreter for the part of Python's pickle language that PyTorch state dicts use.

A pickle is a program; ``pickle.load`` runs it. This interpreter knows the thirty-odd instructions that build dicts,
lists, tuples, strings and numbers, and the names that ``torch.load(weights_only=True)`` knows, with NumPy's. It never
imports a name it is given, so a file cannot run code: any other instruction or name ends the reading with an error
that names it.

Tensors become :class:`TensorRef`, a description (storage, offset, shape, strides) without data, so nothing is allocated
because of what a file claims. Known objects that a network does not need (a device, a NumPy array, a sparse tensor)
become :class:`Other`, without their contents.
"""

from __future__ import annotations

import io
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any


class UnsafePickleError(Exception):
    """The pickle asks for something that a state dict never needs. ``name`` says what."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class MalformedPickleError(Exception):
    """The pickle is cut short or makes no sense."""


@dataclass(frozen=True)
class StorageRef:
    """Consecutive numbers somewhere in the file. ``dtype`` is PyTorch's name, or None for untyped bytes."""

    key: str
    dtype: str | None
    count: int  # elements of dtype from ``offset`` on; bytes when untyped
    offset: int = 0  # elements to skip: only in old files can storages be views of others


@dataclass(frozen=True)
class TensorRef:
    """A strided view of a storage. ``offset`` and ``strides`` count elements of ``dtype``."""

    storage: StorageRef
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Other:
    """A known object that is skipped; its ``kind`` is "device", "NumPy array", "sparse tensor", ..."""

    kind: str

    @property
    def is_tensor(self) -> bool:
        return self.kind.endswith(" tensor")


class StateDict(OrderedDict):  # type: ignore[type-arg]
    """An OrderedDict with the attributes that torch sets on it (``_metadata``)."""

    attributes: dict[str, Any]


@dataclass(frozen=True)
class _Name:
    """A permitted global: a marker on the stack that only this module can call."""

    qualified: str


#: Storage class -> PyTorch dtype name.
STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": None,
}
DTYPES = frozenset(name for name in STORAGE_DTYPES.values() if name)

#: Storages of skipped types: dtype name and bytes per element, which the old format needs to find the next storage.
OTHER_STORAGES = {
    "ComplexFloatStorage": ("complex64", 8),
    "ComplexDoubleStorage": ("complex128", 16),
    "QInt8Storage": ("qint8", 1),
    "QUInt8Storage": ("quint8", 1),
    "QInt32Storage": ("qint32", 4),
    "QUInt4x2Storage": ("quint4x2", 1),
    "QUInt2x4Storage": ("quint2x4", 1),
}
STORAGE_DTYPES |= {name: dtype for name, (dtype, _size) in OTHER_STORAGES.items()}

_REBUILD = "torch._utils._rebuild_"
_FROM_TYPE = "torch._tensor._rebuild_from_type_v2"

#: Names that are never called: classes and settings among the arguments of a call, or on their own.
_MARKS = frozenset(("torch.Tensor", "torch.nn.parameter.Parameter", "numpy.ndarray"))
_MARK_PATTERN = re.compile(r"torch\.(q?u?int\d+\w*|b?float\w+|complex\d+|bits\w+|bool|(per_tensor|per_channel)_\w+)")
#: Python 2's names of modules, in which the protocol of torch.save still writes, and NumPy's before 2.0.
_MODULES = {"__builtin__": "builtins", "numpy.core.multiarray": "numpy._core.multiarray"}


def _permitted(module: str, name: str) -> _Name:
    module = _MODULES.get(module, module)
    qualified = f"{module}.{name}"
    storage = module in ("torch", "torch.storage", "torch.cuda") and name in STORAGE_DTYPES
    if storage or qualified in _CALLS or qualified in _MARKS or _MARK_PATTERN.fullmatch(qualified):
        return _Name(qualified)
    raise UnsafePickleError(qualified, f"the pickle names {shown(qualified)}, which no state dict needs")


_MARK = object()

#: Limits far above any state dict's needs, so that a hostile file cannot keep us busy. A state dict takes 40 KB and
#: 15,000 instructions, a training state with its optimizer four times as much. A character may take four bytes in
#: memory, an empty dict 72 for one byte of pickle. Copying a list counts once per item, because a few bytes of pickle
#: can copy a list from the memo again and again.
MAX_PICKLE_BYTES = 8 << 20
MAX_INSTRUCTIONS = 500_000
MAX_INTEGER_BITS = 4096  # hashing, adding and printing take longer with each digit
MAX_KEY_LENGTH = 1 << 16
MAX_DIMENSIONS = 64  # numpy's


def load(stream: IO[bytes], storage: Callable[[Any], StorageRef] | None = None) -> Any:
    """The value of the pickle at ``stream``'s position; the stream is left right after it.

    ``storage`` turns a persistent id (torch's reference to a storage) into a :class:`StorageRef`.

    Raises:
        UnsafePickleError: an instruction or a name that is not on the list.
        MalformedPickleError: the pickle is not valid.
    """
    try:
        return _run(stream, storage)
    except UnsafePickleError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        if stream.tell() >= MAX_PICKLE_BYTES:  # the rest was not given to it
            raise UnsafePickleError("length", f"the pickle is longer than {MAX_PICKLE_BYTES >> 20} MiB") from None
        raise MalformedPickleError(f"not a valid pickle: {shown(str(error)) or type(error).__name__}") from None


def _run(stream: IO[bytes], storage: Callable[[Any], StorageRef] | None) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def pop_mark() -> list[Any]:
        index = len(stack) - 1
        while stack[index] is not _MARK:
            index -= 1
            if index < 0:
                raise ValueError("no mark on the stack")
        items = stack[index + 1 :]
        del stack[index:]
        return items

    argument: Any
    work = 0
    for opcode, argument, _ in pickletools.genops(stream):
        work += 1
        if work > MAX_INSTRUCTIONS:
            raise UnsafePickleError("length", f"the pickle has more than {MAX_INSTRUCTIONS:,} instructions")
        match opcode.name:  # tested in order, so the most frequent come first
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                memo[argument] = stack[-1]
            case (
                "BININT" | "BININT1" | "BININT2" | "BINFLOAT" | "FLOAT"
                | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8" | "UNICODE"
                | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8" | "BINSTRING" | "SHORT_BINSTRING" | "STRING"
                | "BYTEARRAY8"
            ):  # fmt: skip
                stack.append(argument)
            case "MARK":
                stack.append(_MARK)
            case "TUPLE":
                stack.append(tuple(pop_mark()))
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(memo[argument])
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "NONE":
                stack.append(None)
            case "NEWTRUE":
                stack.append(True)
            case "NEWFALSE":
                stack.append(False)
            case "LONG1" | "LONG4" | "INT" | "LONG":
                if argument.bit_length() > MAX_INTEGER_BITS:
                    raise ValueError(f"an integer of more than {MAX_INTEGER_BITS} bits")
                stack.append(argument)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_SET":
                stack.append([])  # in order, duplicates kept: sets only occur in optimizer settings
            case "TUPLE1":
                stack.append((stack.pop(),))
            case "TUPLE2":
                stack[-2:] = [(stack[-2], stack[-1])]
            case "TUPLE3":
                stack[-3:] = [(stack[-3], stack[-2], stack[-1])]
            case "LIST" | "FROZENSET":
                stack.append(pop_mark())
            case "DICT":
                items = pop_mark()
                stack.append({_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)})
            case "APPEND":
                value = stack.pop()
                _list(stack[-1]).append(value)
            case "APPENDS" | "ADDITEMS":
                items = pop_mark()
                _list(stack[-1]).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _dict(stack[-1])[_key(key)] = value
            case "SETITEMS":
                items = pop_mark()
                _dict(stack[-1]).update((_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True))
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "POP":
                stack.pop()
            case "POP_MARK":
                pop_mark()
            case "DUP":
                stack.append(stack[-1])
            case "GLOBAL":
                stack.append(_permitted(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_permitted(_key(module), _key(name)))
            case "BINPERSID":
                if storage is None:
                    raise UnsafePickleError("BINPERSID", "the pickle refers to a storage where none is expected")
                stack.append(storage(stack.pop()))
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                work += _items_to_copy(arguments)
                if work <= MAX_INSTRUCTIONS:  # else the next instruction stops it
                    stack.append(_call(function, arguments))
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], StateDict) and isinstance(state, dict):
                    stack[-1].attributes = state
                elif not isinstance(stack[-1], Other):
                    raise UnsafePickleError("BUILD", "the pickle sets the state of what is not an OrderedDict")
            case other:
                raise UnsafePickleError(other, f"the pickle uses the instruction {other}, which no state dict needs")
    raise ValueError("it ends before its end mark")


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise TypeError("it appends to something that is not a list")
    return value


def _dict(value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise TypeError("it sets an item of something that is not a dict")
    return value


def _key(value: Any) -> Any:
    """``value`` if it may be a key, that is, if looking it up is fast.

    Not tuples: hashing nested ones can take for ever. Not long integers, of which many can have the same hash. Not
    names so long that comparing them takes noticeable time.
    """
    if not isinstance(value, str | int | float | bytes | None):
        raise TypeError(f"a {type(value).__name__} is used as a key")
    if isinstance(value, int) and value.bit_length() > 64:
        raise ValueError("an integer of more than 64 bits is used as a key")
    if isinstance(value, str | bytes) and len(value) > MAX_KEY_LENGTH:
        raise ValueError(f"a name is {len(value):,} characters long")
    return value


def shown(text: str) -> str:
    """``text`` from a file for an error message: shortened, without control characters."""
    clipped = text if len(text) <= 120 else f"{text[:120]}..."
    if clipped.isprintable():  # nearly always, and needed for every tensor
        return clipped
    return "".join(character if character.isprintable() else "?" for character in clipped)


def _items_to_copy(arguments: Any) -> int:
    """How many items a call with ``arguments`` copies at most."""
    if not isinstance(arguments, tuple):
        return 0
    return len(arguments) + sum(len(item) for item in arguments[:1] if isinstance(item, list | tuple | dict))


def _call(function: Any, arguments: Any) -> Any:
    """The result of the permitted ``function``, computed here and not by the function of that name."""
    if not isinstance(function, _Name) or not isinstance(arguments, tuple):
        raise UnsafePickleError("REDUCE", "the pickle calls something that is not a permitted name")
    name = function.qualified
    if name not in _CALLS:
        raise UnsafePickleError(name, f"the pickle calls {name}, which no state dict needs")
    return _CALLS[name](*arguments)


def _ordered_dict(pairs: Any = ()) -> StateDict:
    if not isinstance(pairs, list | tuple):
        raise TypeError("an OrderedDict is made of something that is not a list")
    result = StateDict((_key(key), value) for key, value in pairs)
    result.attributes = {}
    return result


def _parameter(tensor: Any, *_settings: Any) -> TensorRef | Other:
    if not isinstance(tensor, TensorRef | Other):
        raise TypeError("a parameter is made of something that is not a tensor")
    return tensor


def _from_type(function: Any, _type: Any, arguments: Any, _state: Any) -> Any:
    """A tensor with attributes, or of a subclass, as a plain tensor."""
    if not isinstance(function, _Name) or not function.qualified.startswith(_REBUILD):
        raise UnsafePickleError(_FROM_TYPE, "the pickle makes a tensor with a function that makes none")
    return _call(function, arguments)


def _encode(text: Any, _encoding: Any = "latin1") -> Any:
    """How protocol 2 writes bytes."""
    return text.encode("latin1") if len(text) <= MAX_KEY_LENGTH else Other("bytes")


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, _gradient: Any = None, _hooks: Any = None,
    metadata: Any = None, *_settings: Any,
) -> TensorRef | Other:  # fmt: skip
    if not isinstance(storage, StorageRef):
        raise TypeError("a tensor is made of something that is not a storage")
    return _typed_tensor(storage, storage.dtype, offset, shape, strides, metadata)


def _tensor_v3(
    storage: Any, offset: Any, shape: Any, strides: Any, _gradient: Any, _hooks: Any, dtype: Any,
    metadata: Any = None, *_settings: Any,
) -> TensorRef | Other:  # fmt: skip
    """An untyped storage, the dtype beside it."""
    if not isinstance(storage, StorageRef):
        raise TypeError("a tensor is made of something that is not a storage")
    return _typed_tensor(storage, dtype.qualified.removeprefix("torch."), offset, shape, strides, metadata)


def _typed_tensor(
    storage: StorageRef, dtype: str | None, offset: Any, shape: Any, strides: Any, metadata: Any
) -> TensorRef | Other:
    if isinstance(metadata, dict) and any(metadata.values()):  # {"neg": True}: the numbers mean their negatives
        return Other("negated or conjugated tensor")
    if dtype is None:
        raise TypeError("a tensor has a storage without a dtype")
    if dtype not in DTYPES:
        return Other(f"{dtype} tensor")
    shape, strides = _sizes(shape), _sizes(strides)
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError("a tensor whose shape, strides and offset do not fit together")
    return TensorRef(storage, dtype, offset, shape, strides)


def _sizes(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple) or len(value) > MAX_DIMENSIONS:
        raise TypeError("a shape or strides that are not a short list")
    return tuple(value)


def _other(kind: str) -> Callable[..., Other]:
    return lambda *_arguments: Other(kind)


#: What may be called, and what is called instead.
_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "collections.Counter": lambda counts=None: dict(_dict(counts or {})),
    "builtins.set": lambda items=(): list(items),
    "builtins.frozenset": lambda items=(): list(items),
    "builtins.bytes": lambda: b"",
    "builtins.bytearray": _other("bytes"),
    "builtins.complex": _other("complex number"),
    "_codecs.encode": _encode,
    "torch.Size": lambda sizes=(): _sizes(sizes),
    "torch.device": _other("device"),
    "torch.serialization._get_layout": _other("layout"),
    _FROM_TYPE: _from_type,
    f"{_REBUILD}tensor": _tensor,
    f"{_REBUILD}tensor_v2": _tensor,
    f"{_REBUILD}tensor_v3": _tensor_v3,
    f"{_REBUILD}parameter": _parameter,
    f"{_REBUILD}parameter_with_state": _parameter,
    f"{_REBUILD}device_tensor_from_cpu_tensor": _parameter,
    f"{_REBUILD}device_tensor_from_numpy": _other("NumPy tensor"),
    f"{_REBUILD}sparse_tensor": _other("sparse tensor"),
    f"{_REBUILD}qtensor": _other("quantized tensor"),
    f"{_REBUILD}meta_tensor_no_storage": _other("meta tensor"),
    f"{_REBUILD}nested_tensor": _other("nested tensor"),
    "numpy.dtype": _other("NumPy dtype"),
    "numpy._core.multiarray._reconstruct": _other("NumPy array"),
    "numpy._core.multiarray.scalar": _other("NumPy number"),
    "numpy._core.numeric._frombuffer": _other("NumPy array"),
    "numpy.core.numeric._frombuffer": _other("NumPy array"),
}


def storage_from_id(identifier: Any) -> StorageRef:
    """The storage that torch's persistent id describes: ("storage", class, key, location, count[, view])."""
    if not isinstance(identifier, tuple) or not 5 <= len(identifier) <= 6:
        raise ValueError("a persistent id that is not a storage")
    kind, storage_class, key, _location, count, *view = identifier
    if kind not in ("storage", b"storage") or not isinstance(storage_class, _Name):
        raise ValueError("a persistent id that is not a storage")
    if type(count) is not int or count < 0 or not isinstance(key, str | int):
        raise ValueError("a storage without a size or a key")
    dtype = STORAGE_DTYPES[storage_class.qualified.rsplit(".", 1)[-1]]
    root, offset = str(_key(key)), 0
    if view and view[0] is not None:  # (key of the view, offset, size): the old format's views into a root storage
        _view_key, offset, size = view[0]
        if any(type(number) is not int or number < 0 for number in (offset, size)) or offset + size > count:
            raise ValueError("a storage view that reaches beyond its storage")
        count = size
    return StorageRef(root, dtype, count, offset)


def pickles_in(content: Any) -> io.BytesIO:
    """The pickles at the beginning of ``content`` (bytes, a view, or a mapped file), up to the size limit."""
    return io.BytesIO(content[:MAX_PICKLE_BYTES])


def loads(data: Any, storage: Callable[[Any], StorageRef] | None = None) -> Any:
    """:func:`load` from bytes or a view of them."""
    return load(pickles_in(data), storage)
