"""The two forms of the loop over edges: same values, same first and second derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from saboc_jax.layers.edges import Operation, add_edges
from saboc_jax.layers.rules import fast_conv_rule

ENDS = [(0, 1), (0, 2), (1, 2)]


def matrix(collections, mutable, x):
    return jnp.tanh(x @ collections["params"]["w"]), {}


def skip(collections, mutable, x):
    return x, {}


def explosive(collections, mutable, x):
    """Not finite where it runs."""
    return x * jnp.inf, {}


OPERATIONS = [Operation(1, skip), Operation(2, matrix), Operation(0, explosive)]
GATES = jnp.array([[0.0, 0.5, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])


def outputs(reverse_only, with_inputs, nodes, inputs, params, constant=1.0):
    """The sum over all nodes; operations see a constant from outside."""
    scaled = [
        Operation(o.option, lambda c, m, x, run=o.run: (constant * run(c, m, x)[0], {}))
        for o in OPERATIONS
    ]
    sources = inputs if with_inputs else None
    ends = [(s % 2, t) for s, t in ENDS] if with_inputs else ENDS
    run = lambda: add_edges(scaled, ends, nodes, sources, GATES, {"params": {"w": params}})[0]  # noqa: E731
    if not reverse_only:
        return run()
    with nn.intercept_methods(fast_conv_rule()):
        return run()


@pytest.mark.parametrize("with_inputs", [False, True])
def test_both_forms_agree_to_the_second_derivative(x64, with_inputs):
    keys = jax.random.split(jax.random.key(0), 4)
    draw = lambda key, *shape: jax.random.normal(key, shape, jnp.float64)  # noqa: E731
    arguments = draw(keys[0], 3, 2, 4), draw(keys[1], 2, 2, 4), draw(keys[2], 3, 4, 4), 0.7
    weights = draw(keys[3], 3, 2, 4)

    def everything(reverse_only):
        value = lambda *args: outputs(reverse_only, with_inputs, *args)  # noqa: E731
        loss = lambda *args: (weights * value(*args)).sum()  # noqa: E731
        first = jax.grad(loss, argnums=(0, 1, 2, 3))
        norm = lambda *args: sum(jnp.square(g).sum() for g in jax.tree.leaves(first(*args)))  # noqa: E731
        second = jax.grad(norm, argnums=(0, 1, 2, 3))
        return jax.jit(lambda *args: (value(*args), first(*args), second(*args)))(*arguments)

    plain, ours = everything(False), everything(True)
    for one, two in zip(jax.tree.leaves(plain), jax.tree.leaves(ours), strict=True):
        assert np.isfinite(two).all()
        np.testing.assert_allclose(two, one, rtol=1e-12, atol=1e-12)
    assert np.abs(ours[2][2]).max() > 1e-3  # the second derivative is not that of a constant


def test_forward_mode_takes_the_plain_form(x64):
    nodes, inputs, params = jnp.ones((3, 2, 4)), jnp.ones((2, 2, 4)), jnp.ones((3, 4, 4)) / 8
    run = lambda nodes: outputs(False, False, nodes, inputs, params)  # noqa: E731
    _, tangent = jax.jvp(run, (nodes,), (nodes,))
    step = 1e-6
    numeric = (run(nodes * (1 + step)) - run(nodes * (1 - step))) / (2 * step)
    np.testing.assert_allclose(tangent, numeric, rtol=1e-7)
