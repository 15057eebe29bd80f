"""The mean of several models: the supernet of a space of anybody's networks."""

from collections.abc import Sequence
from typing import Any

import jax

from saboc_jax.ntk.network import STATISTICS, Network
from saboc_jax.spaces.modules.models import Model
from saboc_jax.types import PRNGKey, Variables


def as_ensemble(models: Sequence[Model]) -> Model:
    """Returns the mean of the outputs of several models as one model."""
    names = [f"members_{number}" for number in range(len(models))]

    def draw(key: PRNGKey) -> Variables:
        keys = jax.random.split(key, len(models))
        drawn = [model.draw(own) for model, own in zip(models, keys, strict=True)]
        return _joined(names, drawn)

    def apply(variables: Variables, inputs: Any, mutable: Any = ()) -> Any:
        runs = [
            model.network.apply(_of_member(variables, name), inputs, mutable)
            for name, model in zip(names, models, strict=True)
        ]
        return _mean([outputs for outputs, _ in runs]), _joined(names, [state for _, state in runs])

    def train(variables: Variables, inputs: Any, mutable: Any = ()) -> Any:
        runs = [
            (model.network.train or model.network.apply)(
                _of_member(variables, name), inputs, mutable
            )
            for name, model in zip(names, models, strict=True)
        ]
        return _mean([outputs for outputs, _ in runs]), _joined(names, [state for _, state in runs])

    own = all(model.has_weights for model in models)
    return Model("ensemble", draw, Network(apply, {}, train=train), own, None, {})


def _mean(outputs: Sequence[Any]) -> Any:
    return sum(outputs[1:], start=outputs[0]) / len(outputs)


def _joined(names: Sequence[str], trees: Sequence[Any]) -> dict[str, Any]:
    """Puts the collections of members side by side, each under the member's name."""
    collections = sorted({name for tree in trees for name in tree})
    return {
        collection: {
            name: tree[collection]
            for name, tree in zip(names, trees, strict=True)
            if collection in tree
        }
        for collection in collections
    }


def _of_member(variables: Variables, name: str) -> dict[str, Any]:
    return {
        collection: tree[name]
        for collection, tree in variables.items()
        if name in tree or collection != STATISTICS
    }
