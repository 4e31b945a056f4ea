"""What a pickle may name. Nothing that it names is ever looked up; this tells an honest file from an attack.

Rule for what a file may name:

- the few names that state dictionaries consist of (in `pickles`) are understood;
- a name under `REFUSED` (operating system, interpreter, import, network, loaders), or that reaches there by
  its parts (`_REFUSED_PARTS`, `_REFUSED_CALLS`, dunder names), has no place in a checkpoint: the file is
  refused, even if the name is never called;
- `getattr` is understood as an attribute of a class that is named right there, by a plain name or `__new__`: so
  Python writes members of enumerations (3.11) and arguments of `__new__` (protocol 2); any other use is refused;
- any other class or function is taken for training state: it becomes a placeholder, and so does its result.
"""

from __future__ import annotations

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
"""No dotted part may be one of these: `torch.os.system` is `os.system` by another road."""

_REFUSED_CALLS = frozenset(["system", "popen", "eval", "exec", "execfile", "compile", "getattr", "setattr"])
"""No name may end so, whatever module it claims to come from."""

GETATTR = frozenset(["builtins.getattr", "__builtin__.getattr"])


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
