"""Float64 within a block, JAX's switches, and products precise enough for condition numbers."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

PRECISION = lax.Precision.HIGHEST  # no TF32: conditioning is the signal
MATMUL_PRECISIONS = ("highest", "high", "default")
"""Of products and convolutions: float32 ("highest"), or what accelerators have between it and their
fastest ("default": bfloat16 on TPUs, TF32 on GPUs). On the CPU all are float32."""
EXACT = ("highest", "float32")  # names of float32; the second is one of JAX's own


def enable_x64() -> AbstractContextManager[Any]:
    """Returns a context in which JAX keeps float64 inputs in float64.

    It works on every JAX version and leaves the global configuration unchanged.
    """
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax import experimental

    return experimental.enable_x64()  # type: ignore[attr-defined]  # before jax 0.8


# A switch for debugging, its context, and the value with which networks are scored.
SWITCHES: dict[str, tuple[Any, Any]] = {
    "jax_debug_nans": (jax.debug_nans, False),  # what is not finite is flagged, not raised
    "jax_debug_infs": (jax.debug_infs, False),
    "jax_disable_jit": (jax.disable_jit, False),  # programs are compiled ahead of time
    "jax_numpy_rank_promotion": (jax.numpy_rank_promotion, "allow"),
    "jax_numpy_dtype_promotion": (jax.numpy_dtype_promotion, "standard"),
}


@contextmanager
def usual_switches() -> Iterator[None]:
    """Turns JAX's switches for debugging to what scoring needs, and back; also a decorator.

    A bad network is flagged and ranked last whatever the switches are.
    """
    with ExitStack() as stack:
        for name, (context, usual) in SWITCHES.items():
            if getattr(jax.config, name, usual) != usual:
                stack.enter_context(context(usual))
        yield


def computing_in(dtype: str) -> AbstractContextManager[Any]:
    """Returns a context for tracing and running programs of that floating-point type."""
    return enable_x64() if dtype == "float64" else nullcontext()


def inner_products(a: Float[Array, "n p"], b: Float[Array, "m p"]) -> Float[Array, "n m"]:
    """Returns `a b'` in full precision (no TF32), in float32 or better: conditioning is the signal.

    XLA's CPU compiler of jaxlib 0.10 to 0.12 can fuse the product of a matrix with its own
    transpose into a program that reads memory it never wrote. The barrier hides from the compiler
    that both are the same matrix.
    """
    other = lax.optimization_barrier(b)
    return lax.dot_general(
        a,
        other,
        (((1,), (1,)), ((), ())),
        precision=PRECISION,
        preferred_element_type=jnp.promote_types(jnp.result_type(a, b), jnp.float32),
    )


def current_precision() -> str | None:
    """Returns JAX's setting of the precision of products; None: it is not set."""
    return getattr(jax.config, "jax_default_matmul_precision", None)


def chosen_precision(name: str | None = None) -> str:
    """Returns the named precision of products; None: JAX's setting where it is set, else "highest".

    Raises:
        ValueError: if there is no such precision.
    """
    if name is None:
        return current_precision() or MATMUL_PRECISIONS[0]
    if name not in (*MATMUL_PRECISIONS, current_precision()):
        raise ValueError(f"matmul_precision={name!r}; allowed: {MATMUL_PRECISIONS}")
    return name


def products_at(name: str | None = None) -> AbstractContextManager[Any]:
    """Returns a context in which products and convolutions that name no precision have this one.

    Programs have to be traced within it; `name` as in `chosen_precision`.
    """
    context: AbstractContextManager[Any] = jax.default_matmul_precision(chosen_precision(name))
    return context


def as_dtype(tree: Any, dtype: str) -> Any:
    """Casts the floating-point arrays of a tree to a type."""

    def cast(leaf: Any) -> Any:
        floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return jnp.asarray(leaf, dtype) if floating else leaf

    return jax.tree.map(cast, tree)
