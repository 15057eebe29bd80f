"""Anybody's network as a candidate: how it is drawn, and how it runs.

A candidate is a Linen module, an nnx module or a `Network` (`saboc_jax.from_function` and the
like). A module that is bound to its variables, an nnx module and a network keep the weights
that they have; a Linen module that is not bound is drawn anew for every key.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from saboc_jax.layers import linen
from saboc_jax.ntk.network import Network, from_module
from saboc_jax.types import PRNGKey, Variables

Output = str | int | Callable[[Any], Any] | None


class Model(NamedTuple):
    """A candidate.

    Attributes:
        name: for messages and results.
        draw: `draw(key)` gives its variables; `key` is consumed.
        network: it at some weights; only its functions are used.
        has_weights: does it keep its own weights, whatever the key?
        module: the Linen module, to train it; None: it is none.
        call: keyword arguments of every call of the module.
    """

    name: str
    draw: Callable[[PRNGKey], Variables]
    network: Network
    has_weights: bool
    module: nn.Module | None
    call: Mapping[str, Any]


def is_candidate(given: object) -> bool:
    """Is it a network of some kind, rather than an architecture?"""
    return isinstance(given, nn.Module | Network) or _is_nnx(given)


def _is_nnx(given: object) -> bool:
    # An nnx module exists only if flax.nnx is imported, which takes long: it is not imported here.
    return any(kind.__module__.startswith("flax.nnx") for kind in type(given).__mro__)


ADAPTERS = {
    "equinox": "from_equinox",
    "haiku": "from_haiku",
    "keras": "from_keras",
    "torch": "from_torch",
}
"""The function that takes networks of a framework, by the framework's package."""


def adapter_of(given: object) -> str | None:
    """Returns the function that makes a candidate of another framework's network; None: none."""
    packages = (kind.__module__.partition(".")[0] for kind in type(given).__mro__)
    return next((ADAPTERS[package] for package in packages if package in ADAPTERS), None)


def as_model(
    given: Any,
    example: Any,
    call: Mapping[str, Any] | None = None,
    rngs: Any = None,
    output: Output = None,
) -> Model:
    """Returns a candidate as a model.

    Args:
        given: a Linen module, an nnx module or a network.
        example: the shapes of a batch of one example.
        call: keyword arguments of every call of a Linen or nnx module.
        rngs: random streams that a Linen module's evaluation mode needs.
        output: which of its outputs count, see `reduced`.

    Raises:
        ValueError: if it is nothing of these.
    """
    model = _plain_model(given, example, dict(call or {}), rngs)
    if output is None:
        return model
    return model._replace(network=reduced(model.network, output), module=None)


def as_module(given: Any) -> nn.Module:
    """Returns a candidate as a Linen module, to train it; an nnx module begins at its own weights.

    Raises:
        ValueError: if it is a function, whose mode and state are not known.
    """
    if _is_nnx(given):
        from saboc_jax.layers.nnx import from_instance

        return from_instance(given)[0]
    if not isinstance(given, nn.Module):
        raise ValueError(
            f"{getattr(given, 'name', type(given).__name__)} is a function; allowed for training: "
            "a flax.linen.Module or an nnx module"
        )
    return given if given.scope is None else given.unbind()[0]


def _plain_model(given: Any, example: Any, call: dict[str, Any], rngs: Any) -> Model:
    if isinstance(given, Network):
        return _of_network(given, example)
    if _is_nnx(given):
        from saboc_jax.layers.nnx import from_instance

        module, kept = from_instance(given)
        network = from_module(module, kept, rngs=rngs, **call)
        return Model(type(given).__name__, lambda key: kept, network, True, module, call)
    if not isinstance(given, nn.Module):
        raise ValueError(
            f"the candidate is a {type(given).__name__}; allowed: a flax.linen.Module, an nnx "
            "module, or a network (saboc_jax.from_function)"
        )
    if given.scope is not None:  # bound: it has weights
        given, own = given.unbind()
        variables: Any = own
        network = from_module(given, variables, rngs=rngs, **call)
        return Model(type(given).__name__, lambda key: variables, network, True, given, call)
    network = from_module(given, {}, rngs=rngs, **call)
    draw = partial(draw_linen, given, call, rngs, example)
    return Model(type(given).__name__, draw, network, False, given, call)


def _of_network(given: Network, example: Any) -> Model:
    draw = partial(_draw_network, given, example)
    return Model(given.name, draw, given, given.keeps_weights, None, {})


def _draw_network(network: Network, example: Any, key: PRNGKey) -> Variables:
    return network.draw(key, example)


def keeps_weights(given: Any) -> bool:
    """Is a candidate scored at weights of its own, rather than at fresh ones for every key?"""
    if isinstance(given, Network):
        return given.keeps_weights
    return _is_nnx(given) or (isinstance(given, nn.Module) and given.scope is not None)


def draw_linen(
    module: nn.Module, call: Mapping[str, Any], rngs: Any, example: Any, key: PRNGKey
) -> Variables:
    """Draws the variables of a module by its own initialisers; `key` is consumed.

    Args:
        module: not bound.
        call: keyword arguments of its call.
        rngs: further random streams.
        example: the shapes of a batch of one example.
        key: seeds the weights.

    Raises:
        ValueError: if it has no parameters.
    """
    keys = {**(rngs or {}), **dict(zip(("params", "dropout"), jax.random.split(key), strict=True))}
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), example)
    module, args, keywords = linen.prepared(module, call, zeros, training=False)
    variables: Any = nn.unbox(module.init(keys, *args, **keywords))
    if not variables.get("params"):
        raise ValueError(f"module {type(module).__name__} has no parameters; allowed: some")
    return {name: tree for name, tree in variables.items() if name != "intermediates"}


def reduced(network: Network, output: Output) -> Network:
    """Returns the network with other outputs.

    Args:
        network: with any outputs.
        output: a name or a number picks one of several; "sum" and "mean" reduce all axes between
            the first and the last, as positions or pixels; "flat" takes each of their entries as
            an output; a function is applied. A function's result must be [n, k] or [n].

    Raises:
        ValueError: if the name is not among the outputs.
    """

    def change(outputs: Any) -> Array:
        return as_matrix(pick(outputs, output))

    def apply(variables: Variables, inputs: Any, mutable: Any = ()) -> Any:
        outputs, state = network.apply(variables, inputs, mutable)
        return change(outputs), state

    def train(variables: Variables, inputs: Any, mutable: Any = ()) -> Any:
        given: Any = network.train
        outputs, state = given(variables, inputs, mutable)
        return change(outputs), state

    source = None if network.source is None else (network.source, output)
    own = train if network.train is not None else None
    return network._replace(apply=apply, train=own, source=source)


_REDUCTIONS: Mapping[str, Callable[[Array], Array]] = {
    "sum": lambda y: y.sum(tuple(range(1, y.ndim - 1))),
    "mean": lambda y: y.mean(tuple(range(1, y.ndim - 1))),
    "flat": lambda y: y.reshape(len(y), -1),
}


def pick(outputs: Any, output: Output) -> Any:
    """Returns the outputs that `output` names; see `reduced`."""
    if output is None:
        return outputs
    if callable(output):
        return output(outputs)
    if isinstance(outputs, Mapping) and output in outputs:
        return outputs[output]
    if isinstance(outputs, Mapping):
        raise ValueError(f"output={output!r}; allowed: {', '.join(map(repr, outputs))}")
    if isinstance(outputs, tuple | list) and isinstance(output, int):
        if not -len(outputs) <= output < len(outputs):
            raise ValueError(f"output={output}; allowed: 0 to {len(outputs) - 1}")
        return outputs[output]
    if output not in _REDUCTIONS:
        raise ValueError(
            f"output={output!r} of a {type(outputs).__name__}; allowed: "
            f"{', '.join(_REDUCTIONS)}, a name or number of several outputs, or a function"
        )
    return _REDUCTIONS[str(output)](outputs)


def as_matrix(y: Any) -> Any:
    """Returns [n] as [n, 1], the rest as it is."""
    return y[:, None] if getattr(y, "ndim", None) == 1 else y
