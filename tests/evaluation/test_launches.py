"""How many launches a score takes on a GPU or TPU, counted in programs lowered for them."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from saboc_jax import data
from saboc_jax.evaluation.sharing import one_device
from saboc_jax.layers.lowering import lowered, operations
from saboc_jax.scorers import make_scorer
from saboc_jax.scorers.combine import observe
from saboc_jax.spaces import make_space

LOOPS = 15  # scans over the edges of cells, forward and back, and what random numbers take


@pytest.fixture(scope="module")
def chunk():
    """The default NTK-score of four jobs, and its arguments."""
    space = make_space("nas_bench_201", channels=2, num_cells=1)
    scorer = make_scorer("ntk_score", space)
    batch = data.draw(data.load("digits"), jax.random.key(0), 4, needs=scorer.needs)
    keys, batches = jax.random.split(jax.random.key(1), 1), jax.tree.map(lambda a: a[None], batch)
    return observe_of(scorer), (jnp.ones((4, 6, 5)), jnp.zeros(4, jnp.int32), keys, batches)


def observe_of(scorer):
    return partial(observe, scorer)


def branches(jaxpr):
    """How many conditionals a program has, besides choices of the platform."""
    own = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "cond":
            own += equation.params.get("branches_platforms") is None
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            own += branches(inner) if hasattr(inner, "eqns") else 0
    return own


def test_jobs_together_have_no_branches_and_no_loop_over_jobs_or_images(chunk):
    look, arguments = chunk
    together, loop = (partial(one_device, look, way) for way in (True, False))
    assert branches(jax.make_jaxpr(together)(*arguments).jaxpr) == 0
    assert branches(jax.make_jaxpr(loop)(*arguments).jaxpr) > 0
    found = operations(lowered(together, "cuda", *arguments))
    assert found["while"] <= LOOPS < operations(lowered(loop, "cpu", *arguments))["while"]
    assert found == operations(lowered(together, "tpu", *arguments))
