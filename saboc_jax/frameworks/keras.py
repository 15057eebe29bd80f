"""Keras 3 models as candidates, on the JAX backend.

A model runs through `stateless_call` in evaluation mode. Its `BatchNormalization` layers are put
into training mode, without momentum, while it is traced with the statistics of the batch.

Fresh weights: the factory is called once, in a stateless scope, where Keras keeps the initialiser
of every variable. A draw calls them anew, each with its own key in place of its seed.
"""

import functools
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

from saboc_jax.extras import needed
from saboc_jax.frameworks.common import (
    BUFFERS,
    ONE_THREAD,
    check_has_parameters,
    refuse,
    with_collections,
)
from saboc_jax.layers import linen
from saboc_jax.layers.linen import STATISTICS
from saboc_jax.layers.tree import Named
from saboc_jax.ntk.network import Network

# Keras chooses its backend when it is imported; a choice that was made is kept, and checked.
os.environ.setdefault("KERAS_BACKEND", "jax")
with needed("keras", "A Keras network"):
    import keras

ALLOWED = "a built keras.Model or keras.Layer, or a function without arguments that makes one"


def network_of(given: Any) -> Network:
    """Returns a network as a candidate; see `adapters.from_keras`."""
    if keras.backend.backend() != "jax":
        raise ValueError(
            f"Keras runs on {keras.backend.backend()}; allowed: on JAX, with KERAS_BACKEND=jax in "
            "the environment before Keras is imported"
        )
    if isinstance(given, keras.Layer):
        code = _Code(_checked(given))
        own = code.arrays([variable.value for variable in code.variables])
        return Network(code.apply, own, train=code.train, name=code.name, source=code)
    if not callable(given) or isinstance(given, type):
        raise refuse(given, ALLOWED)
    code, initialisers = _made(given)
    draw = functools.partial(_draw, code, initialisers)
    return Network(code.apply, {}, train=code.train, name=code.name, source=code, init=draw)


def _checked(model: Any) -> Any:
    if not isinstance(model, keras.Layer):
        raise refuse(model, ALLOWED)
    if not model.built:
        raise ValueError(
            f"{model.name} is not built; allowed: a model with a keras.Input, or one that was "
            "called on a batch"
        )
    return model


def _made(make: Callable[[], Any]) -> tuple["_Code", list[Any]]:
    """Returns the code of a factory's model, and the initialiser of each of its variables."""
    with ONE_THREAD, _users_seeds(), keras.StatelessScope():
        code = _Code(_checked(make()))
        initialisers = [variable._initializer for variable in code.variables]
    return code, initialisers


@contextmanager
def _users_seeds() -> Iterator[None]:
    """Leaves Python's generator, which Keras takes its default seeds from, as it was."""
    before = random.getstate()
    try:
        yield
    finally:
        random.setstate(before)


def _draw(code: "_Code", initialisers: list[Any], key: Any) -> dict[str, Any]:
    """Draws every variable by its own initialiser; `key` is consumed."""
    values = []
    for number, (variable, given) in enumerate(zip(code.variables, initialisers, strict=True)):
        make = given
        if hasattr(given, "seed") and hasattr(given, "clone"):
            make = given.clone()
            make.seed = jax.random.fold_in(key, number)
        values.append(jnp.asarray(make(variable.shape, dtype=variable.dtype)))
    return code.arrays(values)


class _Code:
    """A model without its arrays; compared by identity."""

    def __init__(self, model: Any) -> None:
        self.model, self.name = model, model.name
        trained, others = list(model.trainable_variables), list(model.non_trainable_variables)
        self.variables = [*trained, *others]
        self.norms = [layer for layer in _layers(model) if _is_norm(layer)]
        moving = {id(v) for layer in self.norms for v in layer.non_trainable_variables}
        self.kinds = ["params"] * len(trained) + [
            STATISTICS if id(variable) in moving else BUFFERS for variable in others
        ]
        self.trained = len(trained)
        self.named = {
            kind: Named([tuple(self.variables[i].path.split("/")) for i in self._of(kind)])
            for kind in ("params", STATISTICS, BUFFERS)
        }
        check_has_parameters(trained, self.name)
        self._apply = jax.jit(self._run, inline=True)  # the layers' own code runs once a shape
        self._train = jax.jit(self._run_in_training, inline=True)

    def _of(self, kind: str) -> list[int]:
        return [i for i, own in enumerate(self.kinds) if own == kind]

    def arrays(self, values: list[Any]) -> dict[str, Any]:
        """Returns the values of all variables as collections."""
        trees = {
            kind: named.tree([values[i] for i in self._of(kind)])
            for kind, named in self.named.items()
        }
        return with_collections(**trees)

    def values(self, variables: Any) -> list[Any]:
        """Returns collections as the values of all variables."""
        values: list[Any] = [None] * len(self.variables)
        for kind, named in self.named.items():
            for place, value in zip(
                self._of(kind), named.leaves(variables.get(kind, {})), strict=True
            ):
                values[place] = value
        return values

    def apply(self, variables: Any, inputs: Any, mutable: Any = ()) -> Any:
        """Runs it in evaluation mode; returns (outputs, {})."""
        return self._apply(variables, inputs)[0], {}

    def train(self, variables: Any, inputs: Any, mutable: Any = ()) -> Any:
        """Runs it with the statistics of the batch; returns (outputs, state)."""
        outputs, others = self._train(variables, inputs)
        if not self.norms:
            return outputs, {}
        values = [*self.values(variables)[: self.trained], *others]
        return outputs, {STATISTICS: self.arrays(values)[STATISTICS]}

    def _run_in_training(self, variables: Any, inputs: Any) -> tuple[Any, Any]:
        with ONE_THREAD, _in_training(self.norms):
            return self._run(variables, inputs)

    def _run(self, variables: Any, inputs: Any) -> tuple[Any, Any]:
        values = self.values(variables)
        flags = linen.call_in_mode(self.model.call, {}, training=False)
        parts = values[: self.trained], values[self.trained :]
        if isinstance(inputs, tuple):
            inputs = list(inputs)
        with ONE_THREAD:
            return self.model.stateless_call(*parts, inputs, **flags)


def _layers(model: Any) -> list[Any]:
    return list(model._flatten_layers())


def _is_norm(layer: Any) -> bool:
    """Is it a batch norm that would update statistics when trained?"""
    own = isinstance(layer, keras.layers.BatchNormalization)
    return own and layer.trainable and not getattr(layer, "renorm", False)


@contextmanager
def _in_training(norms: list[Any]) -> Iterator[None]:
    """Puts batch norms into training mode without momentum, for a while."""
    before = [(norm, norm.momentum) for norm in norms]
    try:
        for norm in norms:
            object.__setattr__(norm, "momentum", 0.0)
            object.__setattr__(norm, "call", functools.partial(_call_in_training, norm))
        yield
    finally:
        for norm, momentum in before:
            object.__setattr__(norm, "momentum", momentum)
            norm.__dict__.pop("call", None)


def _call_in_training(norm: Any, inputs: Any, training: Any = None, **others: Any) -> Any:
    return type(norm).call(norm, inputs, training=True, **others)
