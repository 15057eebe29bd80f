"""Flax interceptors (`flax.linen.intercept_methods`): several at once, and what they look at."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from flax import linen as nn

Interceptor = Callable[..., Any]


@contextmanager
def rules_in_force(*rules: Interceptor) -> Iterator[None]:
    """Applies interceptors to every module call; the first is the outermost."""
    with ExitStack() as stack:
        for rule in rules:
            stack.enter_context(nn.intercept_methods(rule))
        yield


def is_call(context: Any, kinds: Any) -> bool:
    """Is this the forward call of a module of these types, after initialisation?"""
    module: Any = context.module
    return (
        isinstance(module, kinds)
        and context.method_name == "__call__"
        and not module.is_initializing()
    )


def is_outermost(context: Any) -> bool:
    """Is the intercepted function that of the layer's class, not one that it calls of its base?"""
    function = getattr(context.orig_method, "func", None)
    own = getattr(type(context.module), context.method_name)
    return function is not None and inspect.unwrap(own) is inspect.unwrap(function)


def is_own(context: Any, kind: Any) -> bool:
    """Is the intercepted function the layer's own, not that of a subclass that calls it?

    A subclass of this package does nothing else than the layer.
    """
    if type(context.module).__module__.startswith("saboc_jax."):
        return True
    function = getattr(context.orig_method, "func", None)
    return function is not None and inspect.unwrap(kind.__call__) is inspect.unwrap(function)
