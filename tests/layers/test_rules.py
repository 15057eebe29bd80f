"""Interceptors in force together."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from saboc_jax.layers.interceptors import rules_in_force


def test_the_first_rule_is_the_outermost_and_none_is_left_in_force():
    order = []

    def rule(name):
        def act(next_fun, args, kwargs, context):
            order.append(name)
            return next_fun(*args, **kwargs)

        return act

    module, x = nn.Dense(1), jnp.ones((1, 2))
    variables = module.init(jax.random.key(0), x)
    with rules_in_force(rule("outer"), rule("inner")):
        module.apply(variables, x)
    assert order == ["outer", "inner"]
    module.apply(variables, x)
    assert order == ["outer", "inner"]
