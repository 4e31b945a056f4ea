"""Reads a pickle as a description of data: nothing that it names is imported, called or built.

Python's unpickler imports what a file names and calls it. A published checkpoint needs none of that: it is a
few tensors in dictionaries, with training state around them. So this is a small machine over the opcodes that
`pickletools` decodes. Its values are plain Python data (None, numbers, strings, lists, tuples, dictionaries)
and four inert records: a `Name` that is never looked up, a `StorageRef` and a `TensorRef` whose numbers are
untrusted until they are checked, and a `Placeholder` for whatever else the file would have built.

What a file may name (nothing that it names is ever looked up; the rules distinguish honest files from attacks):

- the few names that state dictionaries consist of are understood;
- a name under `REFUSED` (operating system, interpreter, import, network, loaders), or one that reaches these by its
  parts (`_REFUSED_PARTS`, `_REFUSED_CALLS`, dunder names), has no place in a checkpoint: the file is refused, even if
  the name is never called;
- `getattr` is understood as an attribute of a class that is named right there, by a plain name or `__new__`: Python
  writes members of enumerations (3.11) and arguments of `__new__` (protocol 2) this way; any other use is refused;
- any other class or function counts as training state: it becomes a placeholder, and so does its result.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, cast

import torch

MAX_OPERATIONS = 1_000_000
"""A checkpoint of a hundred layers with its optimizer has some 100,000; the limit bounds time and memory."""
MAX_NAME = 500
"""Characters of a name. Each counts as an operation, because a text in the memo can be joined, split and stored many
times."""
MAX_LINE = 1 << 12
"""Bytes of a name or a number that is written as text."""
MAX_ELEMENTS = 1 << 48
"""Elements of a storage. Multiplying numbers with millions of digits would take too long."""

STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.storage.UntypedStorage": torch.uint8,
}
"""Element type of each storage class that a file may name."""

_TENSOR = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}
_PARAMETER = {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
_REBUILT = _TENSOR | _PARAMETER | {"collections.OrderedDict"}

_REFUSED_TEXT = """
    os posix posixpath nt ntpath sys builtins __builtin__ operator _operator types inspect gc ast
    importlib _frozen_importlib _frozen_importlib_external imp runpy pkgutil zipimport code codeop linecache
    subprocess _posixsubprocess pty commands popen2 multiprocessing concurrent threading _thread asyncio
    signal socket _socket socketserver ssl http urllib urllib2 httpx requests aiohttp ftplib smtplib telnetlib xmlrpc
    shutil tempfile glob fileinput io _io mmap fcntl tarfile zipfile codecs _codecs webbrowser logging.config
    pickle _pickle cPickle copyreg copy_reg dill cloudpickle joblib shelve dbm sqlite3 marshal
    ctypes _ctypes cffi winreg _winapi msvcrt bdb pdb profile cProfile timeit trace doctest pydoc
    pip setuptools distutils ensurepip venv
    torch.load torch.save torch.compile torch.hub torch.jit torch.package torch.ops torch.classes
    torch._inductor torch.serialization.load torch.serialization.save torch.storage._load_from_bytes
    torch.multiprocessing torch.utils.cpp_extension torch.utils.model_zoo torch.utils.bottleneck
    torch.distributed.run torch.distributed.launcher torch.distributed.elastic
    numpy.load numpy.lib numpy.testing numpy.f2py numpy.distutils numpy.ctypeslib
    pandas.read_pickle pandas.eval
"""
REFUSED = frozenset(_REFUSED_TEXT.split())
"""Refused with everything below them: `os` covers `os.system`."""

_PLAIN_TYPES = """
    set frozenset bytearray bytes complex slice range xrange list dict tuple str unicode int long float bool
    object type Ellipsis NotImplemented
"""
_HARMLESS = frozenset(
    [f"{module}.{name}" for module in ("builtins", "__builtin__") for name in _PLAIN_TYPES.split()]
    + ["copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.__newobj__", "copyreg.__newobj_ex__"]
    + ["_codecs.encode", "types.SimpleNamespace", "types.MappingProxyType", "types.NoneType"]
)
"""Plain types and helpers of pickle itself that sit in refused modules; inert here like everything else."""

_REFUSED_PARTS = frozenset(["os", "posix", "nt", "sys", "subprocess", "builtins"])
"""No dotted part may be one of these: `torch.os.system` is `os.system` by another path."""

_REFUSED_CALLS = frozenset(["system", "popen", "eval", "exec", "execfile", "compile", "getattr", "setattr"])
"""No name may end in one of these, whatever module it claims to come from."""

GETATTR = frozenset(["builtins.getattr", "__builtin__.getattr"])


class PickleError(Exception):
    """The pickle is broken, too large, or uses something that no checkpoint needs."""


class UnsafeName(PickleError):
    """The pickle names something that could do harm if it were called."""


def is_refused(full: str) -> bool:
    """Whether a name, or anything above it, is refused."""
    if full in _HARMLESS:
        return False
    parts = full.split(".")
    above = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    inner = any(part in _REFUSED_PARTS or part.startswith("__") for part in parts[1:])
    return inner or parts[-1] in _REFUSED_CALLS or not above.isdisjoint(REFUSED)


def is_plain_attribute(owner: str, attribute: str) -> bool:
    """Whether getattr(owner, attribute) is what honest files have: a public name, or `__new__`, of a class."""
    named = owner if attribute == "__new__" else f"{owner}.{attribute}"
    private = attribute.startswith("_") and attribute != "__new__"
    return attribute.isidentifier() and not private and not is_refused(named)


@dataclass(frozen=True, eq=False, slots=True)
class Name:
    """A class or function by name only."""

    full: str


@dataclass(frozen=True, eq=False, slots=True)
class Placeholder:
    """What the file would have built by calling `origin`."""

    origin: str


@dataclass(frozen=True, eq=False, slots=True)
class StorageRef:
    """Where a tensor's elements are stored. `key` and `numel` come from the file."""

    dtype: torch.dtype
    key: str
    numel: int


@dataclass(frozen=True, eq=False, slots=True)
class TensorRef:
    """A tensor as the file describes it; offset, size and stride (in elements) are unchecked."""

    storage: StorageRef
    offset: Any
    size: Any
    stride: Any


class _Lines:
    """The stream methods that `pickletools` uses, with short lines, because its errors quote them."""

    def __init__(self, stream: io.BytesIO) -> None:
        self.read, self.tell, self._line = stream.read, stream.tell, stream.readline

    def readline(self) -> bytes:
        return self._line(MAX_LINE)


def read_pickle(stream: io.BytesIO, storages: dict[str, StorageRef] | None = None) -> Any:
    """The value that one pickle describes; the stream is left just after it.

    Args:
        stream: The pickle and what follows it.
        storages: Filled with every storage that the pickle declares, by key.

    Raises:
        UnsafeName: it names something that is refused.
        PickleError: it is not a whole pickle, or beyond what a checkpoint needs.
    """
    machine = _Machine({} if storages is None else storages)
    try:
        for opcode, argument, _ in pickletools.genops(cast(IO[bytes], _Lines(stream))):
            machine.step(opcode.name, argument)
        return machine.stack.pop()
    except (ValueError, IndexError, KeyError, OverflowError, TypeError) as error:
        # Without the error's text, which may quote the file, and a symbolic link can point to any file.
        raise PickleError(f"its pickle is damaged before byte {stream.tell():,}") from error


class _Machine:
    """The pickle virtual machine over inert values."""

    def __init__(self, storages: dict[str, StorageRef]) -> None:
        self.storages = storages
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.spent = 0

    def step(self, opcode: str, argument: Any) -> None:
        """Runs one opcode as `pickletools` names it."""
        self.spend(1)
        if opcode in _CONSTANTS:
            self.stack.append(argument)
        elif opcode in _LITERALS:
            self.stack.append(_LITERALS[opcode]())
        elif opcode in _HANDLERS:
            _HANDLERS[opcode](self, argument)
        elif opcode not in ("PROTO", "FRAME", "STOP"):
            # The extension registry, text persistent ids, out-of-band buffers: torch.save writes none.
            raise PickleError(f"its pickle uses {opcode}, which no checkpoint needs")

    def spend(self, operations: int) -> None:
        self.spent += operations
        if self.spent > MAX_OPERATIONS:
            raise PickleError(f"its pickle has more than {MAX_OPERATIONS} operations")

    def spend_name(self, *parts: str) -> None:
        length = sum(map(len, parts))
        if length > MAX_NAME:
            raise PickleError(f"its pickle has a name of more than {MAX_NAME} characters")
        self.spend(length)

    # Stack and memo.

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop_mark(self, _: Any = None) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    # Containers.

    def make_tuple(self, count: int) -> None:
        items = tuple(self.stack[len(self.stack) - count :])
        if len(items) != count:
            raise PickleError("its pickle is damaged (stack too short)")
        del self.stack[len(self.stack) - count :]
        self.stack.append(items)

    def tuple_to_mark(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append(tuple(items))

    def list_to_mark(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append(items)

    def dict_to_mark(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self._fill(items)

    def frozenset_to_mark(self, _: Any) -> None:
        self.pop_mark()
        self.stack.append(Placeholder("builtins.frozenset"))

    def append(self, _: Any) -> None:
        self._extend([self.stack.pop()])

    def appends(self, _: Any) -> None:
        self._extend(self.pop_mark())

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)
        elif not isinstance(self.stack[-1], Placeholder):
            raise PickleError("its pickle appends to something that is not a list")

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def set_items(self, _: Any) -> None:
        self._fill(self.pop_mark())

    def _fill(self, items: list[Any]) -> None:
        """Sets items [key, value, key, value, ...] of the mapping on top of the stack."""
        target = self.stack[-1]
        if isinstance(target, dict):
            # A state dictionary has string keys. Hashing a deeply nested tuple would overflow the C stack.
            target.update((k, v) for k, v in zip(items[::2], items[1::2], strict=True) if isinstance(k, str))
        elif not isinstance(target, Placeholder):
            raise PickleError("its pickle sets items of something that is not a dictionary")

    # Names, objects, persistent ids.

    def name(self, argument: str) -> None:
        """GLOBAL: `pickletools` joins module and name by a space."""
        self._push_name(*argument.split(" ", 1))

    def stack_name(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(module, str) and isinstance(name, str)):
            raise PickleError("its pickle names something by values that are not strings")
        self._push_name(module, name)

    def _push_name(self, module: str, name: str) -> None:
        self.spend_name(module, name)
        full = f"{module}.{name}"
        if is_refused(full) and full not in GETATTR:
            raise UnsafeName(full)
        self.stack.append(Name(full))

    def reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self._result(function, arguments))

    def new_object_with_keywords(self, _: Any) -> None:
        self.stack.pop()
        self.reduce(None)

    def object_to_mark(self, _: Any) -> None:
        cls, *arguments = self.pop_mark()
        self.stack.append(self._result(cls, tuple(arguments)))

    def instance(self, argument: str) -> None:
        """INST: module and name as in GLOBAL, the arguments from the mark on."""
        arguments = tuple(self.pop_mark())
        self.name(argument)
        self.stack.append(self._result(self.stack.pop(), arguments))

    def build(self, _: Any) -> None:
        """Drops an object's state: no record has any (a state dictionary's is torch's `_metadata`)."""
        self.stack.pop()
        if not isinstance(self.stack[-1], (Placeholder, TensorRef, dict, list)):
            raise PickleError("its pickle gives state to something that has none")

    def _result(self, function: Any, arguments: Any) -> Any:
        """What calling `function` would have given, as far as it matters."""
        if isinstance(function, Placeholder):
            return function
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise PickleError("its pickle calls something that is not a function")
        if function.full in GETATTR:
            return self._attribute(function.full, arguments)
        if function.full in _REBUILT:
            return self._rebuilt(function.full, arguments)
        return Placeholder(function.full)

    def _attribute(self, getattr_name: str, arguments: tuple[Any, ...]) -> Placeholder:
        """An attribute of a named class, the only use of getattr in honest files."""
        owner, attribute = arguments if len(arguments) == 2 else (None, None)
        if not (isinstance(owner, Name) and isinstance(attribute, str)):
            raise UnsafeName(getattr_name)
        self.spend_name(owner.full, attribute)
        if is_plain_attribute(owner.full, attribute):
            return Placeholder(f"{owner.full}.{attribute}")
        raise UnsafeName(getattr_name)

    def _rebuilt(self, full: str, arguments: tuple[Any, ...]) -> Any:
        if full in _TENSOR and len(arguments) >= 4 and isinstance(arguments[0], StorageRef):
            flagged = len(arguments) > 6 and arguments[6]  # conjugate or negative views: no weight is one
            return Placeholder(full) if flagged else TensorRef(*arguments[:4])
        if full in _PARAMETER and arguments and isinstance(arguments[0], TensorRef):
            return arguments[0]
        if full == "collections.OrderedDict":
            pairs = arguments[0] if arguments else []
            self.spend(len(pairs))
            return {key: value for key, value in pairs if isinstance(key, str)}
        return Placeholder(full)

    def persistent(self, _: Any) -> None:
        """BINPERSID: ('storage', class, key, location, numel), in legacy files with None for "not a view"."""
        pid = self.stack.pop()
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise PickleError("its pickle has a persistent id that is not a storage")
        _, cls, key, location, numel = pid[:5]
        plain = isinstance(key, str) and isinstance(location, str) and type(numel) is int
        dtype = STORAGES.get(cls.full.replace("torch.cuda.", "torch.")) if isinstance(cls, Name) else None
        if plain:
            self.spend_name(key)
        if not plain or not 0 <= numel <= MAX_ELEMENTS or dtype is None or pid[5:] not in ((), (None,)):
            raise PickleError("its pickle has a storage of unknown form")
        storage = self.storages.setdefault(key, StorageRef(dtype, key, numel))
        if (storage.dtype, storage.numel) != (dtype, numel):
            raise PickleError(f"its pickle declares storage {key[:80]!r} twice, differently")
        self.stack.append(storage)


_CONSTANT_TEXT = """
    INT BININT BININT1 BININT2 LONG LONG1 LONG4 STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES
    BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 FLOAT BINFLOAT
"""
_CONSTANTS = frozenset(_CONSTANT_TEXT.split())
_LITERALS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": lambda: Placeholder("builtins.set"),
}
_HANDLERS: dict[str, Callable[[_Machine, Any], Any]] = {
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Machine.reduce),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    "MARK": _Machine.mark,
    "POP_MARK": _Machine.pop_mark,
    "POP": _Machine.pop,
    "DUP": _Machine.dup,
    "MEMOIZE": _Machine.memoize,
    "TUPLE": _Machine.tuple_to_mark,
    "TUPLE1": lambda machine, _: machine.make_tuple(1),
    "TUPLE2": lambda machine, _: machine.make_tuple(2),
    "TUPLE3": lambda machine, _: machine.make_tuple(3),
    "LIST": _Machine.list_to_mark,
    "DICT": _Machine.dict_to_mark,
    "FROZENSET": _Machine.frozenset_to_mark,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "ADDITEMS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "NEWOBJ_EX": _Machine.new_object_with_keywords,
    "OBJ": _Machine.object_to_mark,
    "INST": _Machine.instance,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}
