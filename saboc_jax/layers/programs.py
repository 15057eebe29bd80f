"""A cache of compiled functions, by name and argument shapes."""

import ctypes
import sys
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from saboc_jax.precision import current_precision

LONG = 1.0  # seconds of compiling that leave hundreds of megabytes behind
MANY_OPERATIONS = 2e9  # of a program that runs once: about a second without optimisation


def signature_of(tree: Any) -> Hashable:
    """Returns structure, shapes and types of a tree of arrays: what a program is compiled for."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((jnp.shape(leaf), str(leaf.dtype)) for leaf in leaves)


def is_traced(tree: Any) -> bool:
    """Is any leaf of a tree part of a program that is being traced?"""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


@dataclass
class ProgramCache:
    """Compiled functions by name and by the shapes of their arguments.

    Another process receives an empty cache: compiled programs cannot be pickled.

    Attributes:
        maximum: how many functions are kept; the most recently used stay.
        compilations: the number of compiled functions.
        compile_seconds: the total compile time.
    """

    maximum: int = 4096
    compilations: int = 0
    compile_seconds: float = 0.0
    _compiled: dict[Hashable, Callable[..., Any]] = field(default_factory=dict)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[int]]:
        """Pickles the size only."""
        return ProgramCache, (self.maximum,)

    def run(self, name: Hashable, function: Callable[..., Any], *args: Any) -> Any:
        """Calls a function with arrays.

        Args:
            name: identifies the function; functions of equal names must be equal.
            function: compiled ahead of time, once for each name and argument shapes. If an
                argument is traced, it becomes part of the surrounding program.
            *args: trees of arrays.
        """
        if is_traced(args):
            return function(*args)
        return self.compiled(name, function, *args)(*args)

    def compiled(self, name: Hashable, function: Callable[..., Any], *args: Any) -> Any:
        """Returns the compiled function for arguments of these shapes; see `run`."""
        signature = (name, current_precision(), signature_of(args))
        if signature not in self._compiled:
            start = time.perf_counter()
            self._compiled[signature] = jax.jit(function).lower(*args).compile()
            self._compiled_in(time.perf_counter() - start)
            self.compilations += 1
            if len(self._compiled) > self.maximum:
                del self._compiled[next(iter(self._compiled))]
        self._compiled[signature] = self._compiled.pop(signature)  # most recent: last
        return self._compiled[signature]

    def run_once(self, function: Callable[..., Any], *args: Any) -> Any:
        """Calls a function that is needed once: compiled with little optimisation, not kept."""
        start = time.perf_counter()
        lowered = jax.jit(function).lower(*args)
        # Without optimisation a large program runs longer than it saves in compiling.
        costs: Any = lowered.cost_analysis() or {}
        level = "0" if costs.get("flops", 0.0) < MANY_OPERATIONS else "1"
        compiled = lowered.compile(compiler_options={"xla_backend_optimization_level": level})
        self._compiled_in(time.perf_counter() - start)
        return compiled(*args)

    def _compiled_in(self, seconds: float) -> None:
        self.compile_seconds += seconds
        if seconds > LONG:
            _return_memory()


def _return_memory() -> None:
    """Gives the memory that compilers have freed back to the system.

    The C library of Linux keeps it: half a gigabyte more for each network that is scored.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:  # only glibc has it
            trim(0)
