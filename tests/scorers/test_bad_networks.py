"""Bad networks and batches in which nothing differs have no value by any registered scorer.

The network's fault is chosen by the gates, so one program of all scorers tries every fault.
"""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from saboc_jax.evaluation.evaluator import Evaluator
from saboc_jax.evaluation.jobs import Draws
from saboc_jax.evaluation.runner import Runner
from saboc_jax.layers.ops import Block, Relu
from saboc_jax.scorers import MEASURED, SCORERS, make_scorer
from saboc_jax.scorers.batches import INPUTS, LABELS
from saboc_jax.scorers.combine import combine, load_factory, score
from saboc_jax.spaces.masks import architecture_to_mask, as_gates
from saboc_jax.statistics.ranking import AGGREGATIONS
from saboc_jax.types import Batch, Cost, Costs, Decisions, OneProgram, SearchSpace

FAULTS = (
    "none",
    "NaN bias of the first layer",
    "NaN bias of the last layer",
    "infinite weights",
    "infinite outputs",
    "one output of one image is NaN",
)  # fmt: skip
CLASSES, N, SHAPE = 3, 5, (4, 4, 2)
KEY = jax.random.key(0)


class Net(nn.Module):
    pooled: bool = True

    @nn.compact
    def __call__(self, images):
        x = Block(name="stem")(nn.Conv(3, (3, 3), name="first")(images))
        x = Relu(name="relu")(nn.BatchNorm(use_running_average=False, name="norm")(x))
        x = Relu(name="last_relu")(nn.Conv(3, (3, 3), name="second")(x))
        x = Block(name="features")(Block(name="cell")(x))
        return nn.Dense(CLASSES, name="last")(x.mean((1, 2))) if self.pooled else x


def with_fault(net, variables, gates, images, mutable=()):
    is_on = [gates[0, option] > 0 for option in range(len(FAULTS))]
    add = lambda leaf, option, value: leaf + jnp.where(is_on[option], value, 0.0)  # noqa: E731
    params = jax.tree.map(lambda leaf: add(leaf, 3, jnp.inf), dict(variables["params"]))
    for name, option in (("first", 1), ("last" if net.pooled else "second", 2)):
        params[name] = params[name] | {"bias": add(params[name]["bias"], option, jnp.nan)}
    outputs, state = net.apply({**variables, "params": params}, images, mutable=list(mutable))
    flat = add(outputs, 4, jnp.inf).reshape(len(images), -1)
    flat = flat.at[0, 0].add(jnp.where(is_on[5], jnp.nan, 0.0))
    return flat.reshape(outputs.shape), state


def program(net, shape, **fields):
    return OneProgram(
        image_shape=shape,
        num_classes=CLASSES,
        specialise=lambda arch: net,
        init=lambda key: {"params": net.init(key, jnp.zeros((1, *shape)))["params"]},
        apply=partial(with_fault, net),
        in_cells=lambda path: path[0] == "second",
        known_layers=True,
        **fields,
    )


def faulty_space():
    choices = (len(FAULTS),)
    return SearchSpace(
        name="faults",
        decisions=Decisions(
            choices=choices,
            option_names=(FAULTS,),
            to_string=lambda arch: FAULTS[int(arch[0])],
            from_string=lambda text: np.array([FAULTS.index(text)]),
            gates=partial(as_gates, choices=choices),
            canonical=lambda arch: FAULTS[int(arch[0])],
            is_connected=lambda mask: True,
        ),
        networks=program(Net(), SHAPE, thin_cell=program(Net(pooled=False), (3, 3, 1))),
        costs=Costs(lambda arch: Cost(1, 1, 1)),
    )


def make_batch():
    draw = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)  # noqa: E731
    labels = jnp.array([0, 1, 2, 1, 0])
    images = [draw(seed, N, *SHAPE) for seed in range(3)]
    return Batch(
        images[0], labels, images[1], labels[::-1], images[2], draw(3, 1, N, *SHAPE),
        labels[None], draw(4, 8, 3, 3, 1),
    )  # fmt: skip


@pytest.fixture(scope="module")
def evaluator():
    space, made = faulty_space(), []
    for name in sorted(set(SCORERS) - MEASURED - {"random"}):  # it reads the key alone
        known = inspect.signature(load_factory(SCORERS, name)).parameters
        made.append(make_scorer(name, space, **{"init": None} if "init" in known else {}))
    passing = [scorer for scorer in made if scorer.observables]  # the others look at no network
    assert {s.name for s in made} - {s.name for s in passing} == {
        *("params", "macs", "depth", "paths", "activations")
    }
    return Evaluator(Runner(space, combine(passing), Draws([KEY], [make_batch()])))


def columns(scorer):
    ends = np.cumsum([len(part.metrics) for part in scorer.parts])
    return {p.name: slice(e - len(p.metrics), e) for p, e in zip(scorer.parts, ends, strict=True)}


def test_every_fault_is_flagged_and_ranked_last_by_every_scorer(evaluator):
    masks = architecture_to_mask(np.arange(len(FAULTS))[:, None], len(FAULTS))
    values = evaluator.evaluate(masks)[:, 0]
    assert np.isfinite(values[0]).all()
    for name, own in columns(evaluator.scorer).items():
        for fault, row in zip(FAULTS[1:], values[1:, own], strict=True):
            assert not np.isfinite(row).any(), (name, fault, row)
        up = evaluator.scorer.higher_is_better[own]
        for rule in AGGREGATIONS.values():
            ranks = rule(values[:, own], up)
            assert ranks[0] < ranks[1:].min(), name
    for mask in masks[1:]:
        notes = evaluator.score(mask, 0).diagnostics
        flags = {part.name: notes.get(f"{part.name}.flag") for part in evaluator.scorer.parts}
        assert set(flags.values()) == {"non_finite"}, flags
    assert evaluator.counts.compilations == 1


NOTHING_DIFFERS = {
    "one class": {"labels": jnp.zeros(N, int)},
    "one class in the test": {"test_labels": jnp.ones(N, int)},
    "the same image": {"images": jnp.ones((N, *SHAPE))},
    "the same test image": {"test_images": jnp.ones((N, *SHAPE))},
    "images whose squares overflow": {"images": 1e30 * make_batch().images},
}


@pytest.mark.parametrize("what", NOTHING_DIFFERS)
def test_what_cannot_be_told_apart_has_no_value_by_scorers_that_read_it(evaluator, what):
    fields = NOTHING_DIFFERS[what]
    draws = Draws([KEY], [make_batch()._replace(**fields)])
    row = evaluator.with_draws(draws).score(architecture_to_mask([0], len(FAULTS)), 0)
    for part, own in zip(evaluator.scorer.parts, columns(evaluator.scorer).values(), strict=True):
        reads = bool(part.needs & set(fields))
        assert np.isnan(row.scores[own]).all() == reads, part.name
        assert row.diagnostics.get(f"{part.name}.flag") == ("non_finite" if reads else None)
    assert {*INPUTS, *LABELS} == set(Batch._fields)


def test_one_image_has_no_value():
    space = faulty_space()
    batch = jax.tree.map(lambda leaf: leaf[:1], make_batch())
    gates = space.gates(np.array([0]))
    for name in ("swap", "synflow"):
        value, _ = score(make_scorer(name, space), KEY, gates, batch)
        assert np.isnan(value).all() == (name == "swap")
