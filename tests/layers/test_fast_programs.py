"""Programs with fast convolutions give what the plain ones give, with their gradients."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from saboc_jax.layers.fast_programs import faster, with_fast_convolutions
from saboc_jax.layers.jaxpr import trace
from saboc_jax.precision import enable_x64

LAYOUTS = (("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW"))


def layer(numbers, groups, strides, padding, dilation, x, kernel):
    shapes = (x.shape, kernel.shape, numbers)
    return lax.conv_general_dilated(
        *(x, kernel, strides, padding),
        rhs_dilation=dilation,
        dimension_numbers=lax.conv_dimension_numbers(*shapes),
        feature_group_count=groups,
    )


def operands(numbers, size, inner, outer, groups, window):
    sizes = {"N": 5, "H": size, "W": size + 1, "C": inner}
    of_kernel = {"H": window, "W": window, "I": inner // groups, "O": outer}
    keys = jax.random.split(jax.random.key(size), 2)
    return (
        jax.random.normal(keys[0], [sizes[axis] for axis in numbers[0]], float),
        jax.random.normal(keys[1], [of_kernel[axis] for axis in numbers[1]], float),
    )


def convolutions(function, *args):
    return [e for e in trace(function, *args).equations if e.name == "conv_general_dilated"]


@pytest.mark.parametrize(
    ("numbers", "groups", "size_and_stride"), [*product(LAYOUTS, (1, 6), ((2, 1), (7, 2)))]
)
def test_results_and_gradients_are_the_plain_ones(numbers, groups, size_and_stride):
    size, stride = size_and_stride
    with enable_x64():
        padding, dilation = ((1, 2), (2, 1)), (1, 2 if size > 2 else 1)
        outer = 6 if groups > 1 else 4

        def loss(x, kernel):
            y = layer(numbers, groups, (stride,) * 2, padding, dilation, x, kernel)
            return jnp.sin(y).sum()

        args = operands(numbers, size, 6, outer, groups, 3)
        whole = lambda x, kernel: (loss(x, kernel), *jax.grad(loss, (0, 1))(x, kernel))  # noqa: E731
        plain, fast = jax.jit(whole)(*args), jax.jit(with_fast_convolutions(whole))(*args)
    for one, other in zip(plain, fast, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-11 * np.abs(one).max())


def test_what_is_slow_is_replaced_and_the_rest_is_not():
    def gradients(numbers, groups, x, kernel):
        run = lambda *args: layer(numbers, groups, (1, 1), "SAME", (1, 1), *args).sum()  # noqa: E731
        return jax.grad(run, (0, 1))(x, kernel)

    def replaced(size, inner, groups, window):
        args = operands(LAYOUTS[0], size, inner, inner, groups, window)
        found = convolutions(lambda *args: gradients(LAYOUTS[0], groups, *args), *args)
        return [faster(equation) is not None for equation in found]

    assert all(replaced(2, 8, 1, 3))  # few places
    assert all(replaced(16, 8, 8, 3))  # a group for each channel, and its gradients
    assert not any(replaced(16, 8, 1, 7))
    assert not replaced(16, 8, 2, 3)[0]


def test_one_spatial_axis_inside_a_compiled_call():
    @jax.jit
    def run(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC")
        )

    x = jax.random.normal(jax.random.key(0), (3, 4, 5))
    kernel = jax.random.normal(jax.random.key(1), (3, 5, 2))
    found = with_fast_convolutions(lambda tree: {"y": run(*tree)})((x, kernel))
    np.testing.assert_allclose(found["y"], run(x, kernel), rtol=1e-5, atol=1e-5)


def test_trees_constants_and_loops_pass():
    table = np.arange(3.0, dtype=np.float32)

    def run(tree):
        total, steps = lax.scan(lambda c, x: (c + x, c * x), tree["start"], jnp.asarray(table))
        return {"total": total, "steps": steps, "kept": tree["start"]}

    given = {"start": jnp.float32(2.0)}
    for one, other in zip(
        jax.tree.leaves(with_fast_convolutions(run)(given)),
        jax.tree.leaves(run(given)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other)


def test_convolutions_in_loops_are_fast_too():
    x, kernel = operands(LAYOUTS[0], 2, 3, 3, 1, 3)

    def run(x, kernel):
        step = lambda y, _: (jnp.tanh(layer(LAYOUTS[0], 1, (1, 1), "SAME", (1, 1), y, kernel)),) * 2  # noqa: E731
        return lax.map(lambda one: lax.scan(step, one[None], length=2)[1], x)

    np.testing.assert_allclose(with_fast_convolutions(run)(x, kernel), run(x, kernel), atol=1e-5)
    program = str(jax.make_jaxpr(with_fast_convolutions(run))(x, kernel))
    assert "platform_index" in program
    assert "platform_index" not in str(jax.make_jaxpr(run)(x, kernel))


def test_what_recomputes_to_save_memory_still_does():
    @jax.checkpoint
    def block(x, kernel):
        return layer(LAYOUTS[0], 1, (1, 1), "SAME", (1, 1), x, kernel)

    args = operands(LAYOUTS[0], 2, 3, 3, 1, 3)
    program = jax.make_jaxpr(with_fast_convolutions(block))(*args)
    assert any(
        "checkpoint" in e.primitive.name or "remat" in e.primitive.name for e in program.eqns
    )
