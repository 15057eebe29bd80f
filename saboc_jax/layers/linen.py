"""Runs anybody's Linen module in evaluation mode, or with the statistics of the batch.

The module's own code runs; nothing of it is replaced. The mode is set through the flags that it
has (`FLAGS`) and through the attributes of `nn.BatchNorm` and `nn.Dropout`. Dropout is always off.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from saboc_jax.layers.interceptors import Interceptor, is_own, rules_in_force
from saboc_jax.layers.tree import flatten
from saboc_jax.types import Variables

STATISTICS = "batch_stats"
# JAX and `nn.jit` keep traces by function and shapes, and know nothing of interceptors. A value
# of this context that nothing else equals makes them trace anew. JAX before 0.8 lacks it.
_context = jax.make_user_context() if hasattr(jax, "make_user_context") else None
FLAGS: Mapping[str, bool] = {  # the value of each flag in training mode
    "train": True,
    "training": True,
    "is_training": True,
    "update_stats": True,
    "deterministic": False,
    "use_running_average": False,
    "inference": False,
    "is_eval": False,
}


class _Anew:
    """A value that equals only itself."""


@contextmanager
def traced_anew(*rules: Interceptor) -> Iterator[None]:
    """Applies interceptors, also to blocks under `nn.jit` that were traced before."""
    with nullcontext() if _context is None else _context(_Anew()), rules_in_force(*rules):
        yield


def names_of(function: Callable[..., Any]) -> tuple[str, ...]:
    """Returns the names of a function's arguments."""
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # some callables of C have no signature
        return ()


def flags_of(function: Callable[..., Any]) -> tuple[str, ...]:
    """Returns the names among `FLAGS` that a function takes."""
    names = names_of(function)
    return tuple(name for name in FLAGS if name in names)


def call_in_mode(
    function: Callable[..., Any], call: Mapping[str, Any], training: bool
) -> dict[str, Any]:
    """Returns the keyword arguments of a call with every flag that the function takes set."""
    flags = {name: FLAGS[name] if training else not FLAGS[name] for name in flags_of(function)}
    return {**call, **flags}


def module_in_mode(module: nn.Module, training: bool) -> nn.Module:
    """Returns the module with the flags among its own fields set; itself if it has none."""
    wanted = {
        name: FLAGS[name] if training else not FLAGS[name]
        for name in FLAGS
        if isinstance(getattr(module, name, None), bool) and name in _fields(module)
    }
    differ: dict[str, Any] = {
        name: value for name, value in wanted.items() if getattr(module, name) != value
    }
    return module.clone(**differ) if differ else module


def _fields(module: nn.Module) -> Sequence[str]:
    return list(getattr(module, "__dataclass_fields__", ()))


def prepared(
    module: nn.Module, call: Mapping[str, Any], inputs: Any, training: bool
) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """Returns a module in a mode, and the arguments and keywords that call it on inputs."""
    module = module_in_mode(module, training)
    function = type(module).__call__
    args, named = arguments(function, inputs)
    return module, args, {**call_in_mode(function, call, training), **named}


def evaluate(
    module: nn.Module,
    call: Mapping[str, Any],
    variables: Variables,
    inputs: Any,
    mutable: Sequence[str] = (),
    rngs: Any = None,
) -> Any:
    """Runs a module in evaluation mode; returns (outputs, state).

    Args:
        module: unbound.
        call: keyword arguments of its call; flags are set over them.
        variables: its variables.
        inputs: its input; a tuple gives several arguments, a mapping with the names of
            arguments gives them by name.
        mutable: the collections that `state` holds.
        rngs: random streams that its evaluation mode needs; None: none.
    """
    module, args, keywords = prepared(module, call, inputs, training=False)
    with traced_anew(_mode_rule(training=False, seen=set())):
        return module.apply(variables, *args, mutable=list(mutable), rngs=rngs, **keywords)


def train(
    module: nn.Module,
    call: Mapping[str, Any],
    variables: Variables,
    inputs: Any,
    mutable: Sequence[str] = (),
    rngs: Any = None,
) -> tuple[Any, Any]:
    """Runs a module with the statistics of the batch.

    Returns (outputs, state); the state holds the updated statistics and the `mutable` collections.

    Only batch norms are in training mode if they are all of `nn.BatchNorm`, so that nothing random
    is switched on. Otherwise the module's own flags are set to training.
    """
    seen: set[tuple[str, ...]] = set()
    for flags in (False, True):
        own, args, keywords = prepared(module, call, inputs, training=flags)
        with traced_anew(_mode_rule(training=True, seen=seen)):
            outputs, state = own.apply(
                variables, *args, mutable=[STATISTICS, *mutable], rngs=rngs, **keywords
            )
        paths = {path[:-1] for path in flatten(variables.get(STATISTICS, {}))}
        if paths <= seen:
            break
    return outputs, state


def arguments(function: Callable[..., Any], inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns inputs as arguments: a tuple is several, a mapping of argument names is by name."""
    if isinstance(inputs, tuple):
        return tuple(inputs), {}
    if isinstance(inputs, Mapping):
        names = list(inspect.signature(function).parameters.values())
        takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in names)
        if takes_any or set(inputs) <= {p.name for p in names}:
            return (), dict(inputs)
    return (inputs,), {}


def _mode_rule(training: bool, seen: set[tuple[str, ...]]) -> Callable[..., Any]:
    """Returns an interceptor that sets the mode of Flax's own batch norms and dropouts.

    Args:
        training: do batch norms use, and record, the statistics of the batch?
        seen: the paths of batch norms are added to it.
    """

    def rule(next_fun: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__" or module.is_initializing():
            return next_fun(*args, **kwargs)
        if isinstance(module, nn.Dropout) and is_own(context, nn.Dropout):
            return args[0] if args else next(iter(kwargs.values()))
        if not (isinstance(module, nn.BatchNorm) and is_own(context, nn.BatchNorm)):
            return next_fun(*args, **kwargs)
        seen.add(tuple(module.path))
        kwargs = {k: v for k, v in kwargs.items() if k != "use_running_average"}
        # Momentum 0 records the statistics of the batch themselves, without rounding.
        set_now = {"use_running_average": not training} | ({"momentum": 0.0} if training else {})
        with _attributes(module, set_now):
            return next_fun(*args[:1], **kwargs)

    return rule


@contextmanager
def _attributes(module: nn.Module, values: Mapping[str, Any]) -> Iterator[None]:
    """Sets attributes of a module, which Flax does not allow, for a while."""
    before = {name: getattr(module, name) for name in values}
    for name, value in values.items():
        object.__setattr__(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            object.__setattr__(module, name, value)


def own_statistics(train: Callable[[Any], Any], statistics: Any) -> Any:
    """Returns the statistics of a batch from how training mode updates running ones.

    An update is old -> m old + (1 - m) b with momentum m and the batch's statistic b. Updates of
    old = 0 and of old = 1 give both; a compiler runs the network once for the two, since
    outputs do not depend on old ones. A value that is not updated so stays as it is; `ntk.check`
    compares the outputs, which finds what this does not fit.

    Args:
        train: from running statistics to updated ones.
        statistics: a tree of the running statistics.
    """
    floats, restore = _float_leaves(statistics)
    if not floats:
        return statistics

    def updated(value: float) -> list[Any]:
        return _float_leaves(train(restore([jnp.full_like(leaf, value) for leaf in floats])))[0]

    solved = [_solve(*each) for each in zip(floats, updated(0.0), updated(1.0), strict=True)]
    return jax.lax.stop_gradient(restore(solved))


def _solve(old: Any, from_zero: Any, from_one: Any) -> Any:
    """Returns b of from_zero = (1 - m) b, or the old value if there is no such momentum m."""
    if not from_zero.size:
        return old
    differences, sizes = (from_one - from_zero).ravel(), jnp.abs(from_zero).ravel()
    momentum = differences[sizes.argmin()]  # where rounding is least
    fits = (momentum >= -1e-6) & (momentum < 1 - 1e-6) & jnp.isfinite(from_zero).all()
    fits &= (jnp.abs(differences - momentum) <= 1e-3 * (1 + sizes)).all()
    # A momentum such as 0.99 has few decimals: its complement is then taken without rounding.
    millions = jnp.round(momentum * 1e6)
    near = jnp.abs(momentum * 1e6 - millions) < 0.3
    complement = jnp.where(near, (1e6 - millions) / 1e6, 1 - momentum)
    return jnp.where(fits, from_zero / jnp.where(fits, complement, 1), old).astype(old.dtype)


def _float_leaves(tree: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """Returns the floating-point leaves, and a function that puts others in their places."""
    leaves, structure = jax.tree.flatten(tree)
    chosen = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]

    def restore(floats: list[Any]) -> Any:
        values = iter(floats)
        return jax.tree.unflatten(
            structure,
            [next(values) if c else leaf for c, leaf in zip(chosen, leaves, strict=True)],
        )

    return [leaf for c, leaf in zip(chosen, leaves, strict=True) if c], restore
