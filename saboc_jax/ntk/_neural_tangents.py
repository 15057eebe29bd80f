"""neural-tangents on every JAX from 0.4.38 on, without TensorFlow.

The last release of neural-tangents (0.6.5) imports names that newer JAX has moved or removed, and
an `experimental` package that imports TensorFlow. `load` adds those names during the import and
removes them afterwards: for other code, JAX and the list of loaded modules stay unchanged.

Checked on 0.6.5: `jax.core.Var` and `jax.core.DShapedArray` are the only added names that it
looks up again at run time, in STRUCTURED_DERIVATIVES. That implementation and AUTO fail on current
JAX for other reasons, so `empirical_ntk` offers neither.
"""

import functools
import importlib
import importlib.util
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import jax.core
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jax.interpreters import ad
from jaxtyping import Array, Float

from saboc_jax.extras import MissingExtraError, needed

_NAME = "neural_tangents"
_CORE_NAMES = (
    "AbstractValue",
    "DShapedArray",
    "Jaxpr",
    "JaxprEqn",
    "Literal",
    "Primitive",
    "ShapedArray",
    "Value",
    "Var",
)
_PURPOSE = "engine 'neural_tangents'"
_IMPLEMENTATIONS = {1: "JACOBIAN_CONTRACTION", 2: "NTK_VECTOR_PRODUCTS"}
_LOCK = threading.Lock()


def require_installed() -> None:
    """Raises MissingExtraError with the install command if neural-tangents is not installed."""
    if importlib.util.find_spec(_NAME) is None:
        raise MissingExtraError(_PURPOSE, _NAME, "reference")


def load() -> types.ModuleType:
    """Imports neural-tangents, once; safe to call from several threads.

    Its `experimental` package (TensorFlow) is not an attribute of the result; importing it by name
    still works where TensorFlow is installed.

    Raises:
        MissingExtraError: if neural-tangents or its dependency frozendict is not installed.
    """
    with _LOCK:
        return _load()


def empirical_ntk(
    f: Callable[[Any, Array], Float[Array, "n k"]],
    params: Any,
    x1: Float[Array, "n ..."],
    x2: Float[Array, "m ..."] | None = None,
    *,
    implementation: int = 1,
    vmap_axes: int | None = 0,
    trace_axes: tuple[int, ...] = (),
) -> Float[Array, "n m *outputs"]:
    """Computes the empirical neural tangent kernel of `f` with neural-tangents.

    K[i, j, a, b] = <d f(params, x1)[i, a] / d params, d f(params, x2)[j, b] / d params>,
    summed over every leaf of `params`.

    Args:
        f: `f(params, x)` gives outputs [n, k].
        params: any pytree of arrays.
        x1: [n, ...] inputs, the rows of the kernel.
        x2: [m, ...] inputs, its columns; None means `x1`.
        implementation: 1 contracts Jacobians (memory n k P), 2 takes kernel-vector products (less
            memory, and forward-mode derivatives).
        vmap_axes: 0 if examples do not interact (much faster); None if they do, as in a network
            with batch statistics. With 0 such a network would see batches of one example.
        trace_axes: output axes over whose diagonal the kernel is averaged, e.g. (-1,).

    Returns:
        [n, m, k, k]; with `trace_axes=(-1,)` [n, m], the trace divided by k.

    Raises:
        ValueError: if the implementation is unknown.

    Source: Novak, Sohl-Dickstein and Schoenholz, "Fast finite width neural tangent kernel", 2022.
    """
    if implementation not in _IMPLEMENTATIONS:
        raise ValueError(f"implementation is {implementation!r}; allowed: {_IMPLEMENTATIONS}")
    kernel = load().empirical_ntk_fn(
        f,
        trace_axes=trace_axes,
        vmap_axes=vmap_axes,
        implementation=implementation,
    )
    return kernel(x1, x2, params)


@functools.cache
def _load() -> types.ModuleType:
    module = sys.modules.get(_NAME) or _import()
    # neural-tangents asks jax.numpy for the size of abstract arrays, which JAX deprecates; NumPy
    # reads any object's size and shape. Only its own reference to jax.numpy is replaced.
    repaired = types.ModuleType("jax.numpy")
    vars(repaired).update(size=np.size, shape=np.shape, __getattr__=functools.partial(getattr, jnp))
    vars(importlib.import_module(f"{_NAME}._src.empirical"))["jnp"] = repaired
    return module


def _import() -> types.ModuleType:
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=_NAME)
        # Its docstrings hold backslashes; newer Pythons warn when they compile them.
        warnings.filterwarnings("ignore", message="invalid escape", category=SyntaxWarning)
        for target, names in _missing_names():
            stack.enter_context(_attributes(target, names))
        stack.enter_context(_modules(_missing_modules()))
        stack.enter_context(needed("reference", _PURPOSE))
        module = importlib.import_module(_NAME)
    del vars(module)["experimental"]
    return module


def _missing_names() -> Iterator[tuple[types.ModuleType, dict[str, Any]]]:
    """Yields names that this JAX lacks or only has as deprecated aliases."""
    yield (
        jax.core,
        {
            # A type that no longer exists has no instances, so an empty class can stand for it.
            name: getattr(jax.extend.core, name, None) or type(name, (), {})
            for name in _CORE_NAMES
            if name not in vars(jax.core)
        },
    )
    if not hasattr(ad, "zeros_like_p"):
        yield ad, {"zeros_like_p": jax.extend.core.Primitive("zeros_like")}


def _missing_modules() -> dict[str, types.ModuleType]:
    experimental = f"{_NAME}.experimental"
    missing = {experimental: types.ModuleType(experimental)}
    if importlib.util.find_spec("jax.util") is None:
        util = types.ModuleType("jax.util")
        vars(util).update(safe_map=_safe_map, safe_zip=_safe_zip)
        missing["jax.util"] = util
    return missing


def _safe_map(f: Callable[..., Any], *args: Any) -> list[Any]:
    return [f(*each) for each in zip(*args, strict=True)]


def _safe_zip(*args: Any) -> list[tuple[Any, ...]]:
    return list(zip(*args, strict=True))


@contextmanager
def _attributes(target: types.ModuleType, names: dict[str, Any]) -> Iterator[None]:
    """Adds missing names to `target` while the context lasts."""
    vars(target).update(names)
    try:
        yield
    finally:
        for name in names:
            del vars(target)[name]


@contextmanager
def _modules(modules: dict[str, types.ModuleType]) -> Iterator[None]:
    """Registers modules that are not loaded while the context lasts."""
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]
