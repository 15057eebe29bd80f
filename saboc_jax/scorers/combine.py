"""Combines scorers, so that shared quantities are observed once, and adapts them to programs."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from saboc_jax.devices import SHARDS
from saboc_jax.layers.programs import ProgramCache
from saboc_jax.scorers.batches import check_batch, check_needs, outputs_and_loss, tells_apart
from saboc_jax.scorers.observables import KernelRequest
from saboc_jax.types import (
    Batch,
    Diagnostics,
    Gates,
    OneProgram,
    Passes,
    PRNGKey,
    Scorer,
    SearchSpace,
    brief,
)


def check_storable(scorer: Scorer) -> None:
    """Raises ValueError if an option cannot be identified by a text."""
    for part in scorer.parts or (scorer,):
        for name, value in part.options.items():
            if callable(value):
                raise ValueError(
                    f"scorer {part.name!r}: {name}={value!r} cannot be kept in a store, where it "
                    "would be mistaken for another; allowed: a name, or a function that is "
                    "defined at the top of a module"
                )


def on_space(scorer: Scorer, space: SearchSpace, pieces: ProgramCache | None = None) -> Scorer:
    """Returns the scorer with observables of another space, see `SearchSpace.program`.

    Args:
        scorer: a scorer of a space in which each architecture has its own program.
        space: the space of one program.
        pieces: the cache of compiled links of a chain; None: each observable is one program.
    """

    def move(observable: Any) -> Any:
        if hasattr(observable, "pieces"):
            return replace(observable, space=space, pieces=pieces)
        return replace(observable, space=space) if hasattr(observable, "space") else observable

    moved = {name: move(observable) for name, observable in scorer.observables.items()}
    return scorer._replace(observables=moved)


def shared_by(scorer: Scorer, shard: str, devices: int) -> Scorer:
    """Returns the scorer for use on several devices.

    Args:
        scorer: any scorer for "architectures", which leaves it unchanged.
        shard: one of `saboc_jax.devices.SHARDS`; "images" divides the images of every kernel over
            the devices.
        devices: the number of local devices.

    Raises:
        ValueError: if `shard` is unknown, or is "images" and the scorer observes anything but
            kernels with frozen batch norm in one backward pass.
    """
    if shard not in SHARDS:
        raise ValueError(f"shard={shard!r}; allowed: {SHARDS}")
    if shard != "images":
        return scorer
    parts = scorer.parts or (scorer,)
    others = [p.name for p in parts if not all(map(_shares_images, p.observables.values()))]
    if others:
        raise ValueError(
            f"scorers {others} cannot share images over devices; allowed: scorers that observe "
            "nothing but NTKs, with batch_norm='frozen' and engine 'auto' or 'one_backward'"
        )
    kernels: dict[str, Any] = {
        name: replace(kernel, devices=devices)
        for name, kernel in scorer.observables.items()
        if isinstance(kernel, KernelRequest)  # true for all
    }
    return scorer._replace(observables=kernels)


def _shares_images(observable: object) -> bool:
    return isinstance(observable, KernelRequest) and observable.options.shares_images


def split_apart(scorer: Scorer) -> tuple[Scorer, Scorer]:
    """Splits a scorer by observables: those of one program, and those that run apart."""
    apart = {
        name: observable
        for name, observable in scorer.observables.items()
        if getattr(observable, "runs_apart", False)
    }
    rest = {name: each for name, each in scorer.observables.items() if name not in apart}
    return scorer._replace(observables=rest), scorer._replace(observables=apart)


def with_program(scorer: Scorer, gates: Gates) -> Scorer:
    """Returns the scorer on the program of these gates; unchanged if one program serves all.

    Raises:
        ValueError: if each architecture has its own program and the gates are traced.
    """
    spaces: Any = (getattr(each, "space", None) for each in scorer.observables.values())
    space = next((space for space in spaces if space is not None), None)
    if space is None or isinstance(space.networks, OneProgram):
        return scorer
    if isinstance(gates, jax.core.Tracer):
        raise ValueError(
            f"space {space.name!r} has a program for each architecture, but the gates are "
            "traced; allowed: gates that are known when the scorer is traced (close over them)"
        )
    return on_space(scorer, space.program(np.asarray(gates) > 0))


def observe(scorer: Scorer, key: PRNGKey, gates: Gates, batch: Batch) -> dict[str, Any]:
    """Computes the quantities that a scorer reads; equal observables are computed once.

    A kernel request is also served by a wider request that is computed anyway.
    """
    scorer = with_program(scorer, gates)
    wanted = dict.fromkeys(scorer.observables.values())
    kernels = [observable for observable in wanted if isinstance(observable, KernelRequest)]
    kernels.sort(key=lambda kernel: len(kernel.rows), reverse=True)
    source = {
        observable: next((wide for wide in kernels if wide.covers(observable)), observable)
        for observable in wanted
    }
    values = {
        observable: observable(key, gates, batch) for observable in dict.fromkeys(source.values())
    }
    return {name: values[source[observable]] for name, observable in scorer.observables.items()}


def labels_only(batch: Batch) -> Batch:
    """Returns the batch without its images, as `finish` may read it."""
    return batch._replace(
        images=None,  # type: ignore[arg-type]  # `finish` does not read them
        test_images=None,
        perturbed_images=None,
        more_images=None,
        crops=None,
    )


def combine(scorers: Sequence[Scorer], name: str | None = None) -> Scorer:
    """Combines several scorers into one with all their metrics.

    A metric is named "scorer.metric", or "scorer" if both names are equal. Equal observables (the
    same NTK, the same forward pass) are computed once. A combination among the scorers is split
    into its parts.

    Raises:
        ValueError: if two scorers have the same name.
    """
    if len(scorers) == 1 and name is None:
        return scorers[0]
    scorers = tuple(part for scorer in scorers for part in scorer.parts or (scorer,))
    names = [scorer.name for scorer in scorers]
    if len(set(names)) < len(names):
        raise ValueError(f"scorers {names}; allowed: each name once")

    def finish(
        observed: Mapping[str, Any], gates: Gates, batch: Batch
    ) -> tuple[Float[Array, " k"], Diagnostics]:
        values: list[Array] = []
        notes: Diagnostics = {}
        for index, scorer in enumerate(scorers):
            observed_by_it = {key: observed[f"{index}.{key}"] for key in scorer.observables}
            scores, diagnostics = scorer.finish(observed_by_it, gates, batch)
            values.append(scores)
            notes |= {f"{scorer.name}.{key}": value for key, value in diagnostics.items()}
        return jnp.concatenate(values), notes

    return Scorer(
        name=name or "+".join(scorer.name for scorer in scorers),
        metrics=tuple(
            metric if metric == s.name else f"{s.name}.{metric}"
            for s in scorers
            for metric in s.metrics
        ),
        higher_is_better=tuple(up for s in scorers for up in s.higher_is_better),
        needs=frozenset().union(*(s.needs for s in scorers)),
        passes=Passes(*(sum(kind) for kind in zip(*(s.passes for s in scorers), strict=True))),
        observables={
            f"{index}.{key}": observable
            for index, s in enumerate(scorers)
            for key, observable in s.observables.items()
        },
        finish=finish,
        options={s.name: dict(s.options) for s in scorers},
        parts=scorers,
        measured=any(s.measured for s in scorers),
        supernets=all(s.supernets for s in scorers),
    )


def load_factory(registry: Mapping[str, str], name: str) -> Callable[..., Scorer]:
    """Returns the factory registered under a name as "module:function".

    Raises:
        ValueError: if the name is unknown.
    """
    if not isinstance(name, str) or name not in registry:
        raise ValueError(f"scorer {brief(name)} is unknown; allowed: {', '.join(sorted(registry))}")
    module, function = registry[name].split(":")
    return getattr(importlib.import_module(module), function)


def score(
    scorer: Scorer, key: PRNGKey, gates: Gates, batch: Batch
) -> tuple[Float[Array, " k"], Diagnostics]:
    """Scores one architecture or supernet in one pure function.

    `saboc_jax.evaluation` does the same for many architectures, with `finish` in float64 on the
    host.

    Args:
        scorer: any scorer.
        key: seeds the weights; consumed.
        gates: of the architecture or supernet.
        batch: the images; see `Scorer.needs`.

    Raises:
        ValueError: if the batch lacks a field or is wrong, see `batches.check_batch`.
    """
    batch = check_batch(batch, *outputs_and_loss(scorer))
    check_needs(scorer, batch)
    scores, notes = scorer.finish(observe(scorer, key, gates, batch), gates, labels_only(batch))
    told = [
        jnp.full(len(part.metrics), tells_apart(part, batch)) for part in scorer.parts or (scorer,)
    ]
    return jnp.where(jnp.concatenate(told), scores, jnp.nan), notes
