"""Digests of values, functions and traced programs: equal content, equal digest.

A digest is the same in every process: it contains no addresses, no names of local functions and no
set order. A traced program is digested as its equations; variables are numbered by first
appearance, and constants enter by value.
"""

import dataclasses
import hashlib
import re
import types
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.extend import core

from saboc_jax.precision import computing_in
from saboc_jax.types import OneProgram

LENGTH = 16  # hexadecimal digits: 64 bits
CACHED = 8  # programs whose digests are remembered: they hold their networks
_ADDRESS = re.compile(r" at 0x[0-9a-f]+|\bid=\d+")
_UNNAMED = ("name", "debug_info", "jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd", "ctx_mesh")
"""Skipped parameters of equations: function names, and functions used only for derivatives."""


def digest(*values: Any) -> str:
    """Returns a short text that is the same for equal values."""
    hasher = hashlib.sha256()
    for text in _texts(values):
        hasher.update(text if isinstance(text, bytes) else text.encode())
        hasher.update(b"\0")
    return hasher.hexdigest()[:LENGTH]


@lru_cache(maxsize=CACHED)
def program_digest(program: OneProgram) -> str:
    """Returns the digest of a network's traced initialiser, forward pass and layer positions.

    Args:
        program: a program that ignores gates. It is traced, not compiled.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    example = program.example
    if example is None:
        example = jax.ShapeDtypeStruct(program.image_shape, jnp.float32)
    images = jax.tree.map(lambda a: jax.ShapeDtypeStruct((2, *a.shape), a.dtype), example)
    layers: list[Any] = []

    def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        library = type(module).__module__.split(".")[0] in ("flax", "saboc_jax")
        layers.append((module.path, type(module).__name__ if library else "", _label(module)))
        return call(*args, **kwargs)

    # A precision is part of the identity by itself, whatever it is where this is traced.
    plain = jax.default_matmul_precision(None)
    with plain, computing_in(program.dtype), nn.intercept_methods(note):
        init, variables = jax.make_jaxpr(program.init, return_shape=True)(key)
        forward = jax.make_jaxpr(partial(program.apply, gates=None, mutable=("batch_stats",)))(
            variables, images=images
        )
    paths = [
        (jax.tree_util.keystr(path), str(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    ]
    return digest(init, forward, paths, layers, program.dtype)


def _label(module: nn.Module) -> Any:
    """Returns the layer name that scorers of layers may read; no equation contains it."""
    return module.name if type(module).__module__.startswith("saboc_jax") else None


def _texts(value: Any) -> Iterator[str | bytes]:
    """Yields the content of a value, piece by piece."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        yield repr(value)
    elif isinstance(value, core.ClosedJaxpr | core.Jaxpr):
        yield from _program(value)
    elif isinstance(value, np.ndarray | np.generic | jax.Array):
        yield from _array(value)
    elif isinstance(value, Mapping):
        yield "{"
        for key in sorted(value, key=str):
            yield str(key)
            yield from _texts(value[key])
        yield "}"
    elif isinstance(value, set | frozenset):
        yield from sorted(digest(each) for each in value)
    elif isinstance(value, tuple | list):
        yield "("
        for each in value:
            yield from _texts(each)
        yield ")"
    elif isinstance(value, partial):
        yield from _texts((value.func, value.args, value.keywords))
    elif callable(value) and hasattr(value, "__wrapped__"):
        yield from _texts(value.__wrapped__)
    elif isinstance(value, types.MethodType):
        yield from _texts((value.__func__, value.__self__))
    elif isinstance(value, types.FunctionType):
        yield from _function(value)
    elif isinstance(value, types.CodeType):
        yield value.co_code
        yield from _texts((value.co_names, value.co_consts))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield type(value).__qualname__
        for each in dataclasses.fields(value):
            if each.name not in ("parent", "name"):  # a Flax module's position in its parent
                yield each.name
                yield from _texts(getattr(value, each.name, None))
    else:
        yield _ADDRESS.sub("", repr(value))


def _array(value: Any) -> Iterator[str | bytes]:
    """Yields the type, shape and numbers of an array."""
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        yield str(value.dtype)
        value = jax.random.key_data(value)
    array = np.ascontiguousarray(value)
    yield f"{array.dtype}{array.shape}"
    yield array.tobytes()


def _function(function: types.FunctionType) -> Iterator[str | bytes]:
    """Yields a function's code, defaults and closed-over values, but not its name."""
    yield from _texts(function.__code__)
    yield from _texts((function.__defaults__, function.__kwdefaults__))
    for cell in function.__closure__ or ():
        try:
            yield from _texts(cell.cell_contents)
        except ValueError:  # the closure cell is not filled yet
            yield "empty"


def _program(program: Any) -> Iterator[str | bytes]:
    """Yields the equations of a jaxpr, including those of inner jaxprs."""
    consts = getattr(program, "consts", ())
    jaxpr = program.jaxpr if isinstance(program, core.ClosedJaxpr) else program
    numbers: dict[Any, int] = {}

    def operand(atom: Any) -> Iterator[str | bytes]:
        if isinstance(atom, core.Literal):
            yield from _texts(atom.val)
        else:
            yield f"{numbers.setdefault(atom, len(numbers))}:{atom.aval}"

    yield from _texts(tuple(consts))
    for atom in (*jaxpr.constvars, *jaxpr.invars):
        yield from operand(atom)
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for name, value in sorted(equation.params.items()):
            if name not in _UNNAMED:
                yield name
                yield from _texts(value)
        for atom in (*equation.invars, *equation.outvars):
            yield from operand(atom)
    for atom in jaxpr.outvars:
        yield from operand(atom)
