"""ZeroGPU: on such a Space a function is lent a GPU while it runs; anywhere else it stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def gpu(function: Function, seconds: int = 60) -> Function:
    """The function, as `spaces.GPU` makes it where the package `spaces` is installed.

    On ZeroGPU it then runs in a forked process, which holds the GPU that long. What goes in and comes out is pickled,
    so it is plain values: a prompt and settings, never a model, a lock or an object that has one. What the function
    finds in this process, it finds as it was at the fork, and what it changes stays there. Each call is charged to the
    visitor: tables when a drag has settled, a text, a study; never a drag event, and never what needs no model.

    Args:
        function: A function or a generator function that asks models; not a coroutine.
        seconds: The longest that it may take; the shorter, the sooner a GPU is found.
    """
    if find_spec("spaces") is None:
        return function
    lent: Function = import_module("spaces").GPU(function, duration=seconds)
    return lent
