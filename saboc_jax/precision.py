"""Float64 within a block, on every JAX version, without touching the global configuration."""

from contextlib import AbstractContextManager
from typing import Any

import jax


def enable_x64() -> AbstractContextManager[Any]:
    """A context in which JAX computes in float64 where it is given float64."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax import experimental

    return experimental.enable_x64()  # type: ignore[attr-defined]  # before jax 0.8
