"""Fast forms of convolutions and pools against XLA's own, in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax, random

from saboc_jax.layers import convolutions
from saboc_jax.layers.ops import Conv, ReluConvNorm, average_pool
from saboc_jax.ntk import one_backward, taps
from saboc_jax.ntk.empirical import empirical_ntks
from saboc_jax.ntk.gram_layers import ConvNormLayer
from saboc_jax.ntk.network import from_module
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.precision import enable_x64

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def xla(geometry, x, kernel):
    strides, padding, dilation, groups = geometry
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        rhs_dilation=dilation,
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def draw(sizes, seed=0):
    keys = random.split(random.key(seed), len(sizes))
    return [random.normal(key, size, jnp.float64) for key, size in zip(keys, sizes, strict=True)]


@pytest.mark.parametrize(("stride", "dilation", "kernel", "groups"), [
    (1, 1, 3, 1), (2, 1, 3, 1), (1, 2, 3, 1), (1, 1, 1, 1), (2, 1, 3, 2), (1, 2, 5, 1),
    (1, 1, 5, 6), (2, 1, 3, 6), (2, 2, 5, 6), (1, 2, 3, 6),
])  # fmt: skip
def test_fast_convolution_gradients_are_the_gradients(stride, dilation, kernel, groups):
    with enable_x64():
        pad = dilation * (kernel // 2)
        geometry = ((stride,) * 2, ((pad, pad),) * 2, (dilation,) * 2, groups)
        inputs = max(4, groups)
        x = jax.random.normal(jax.random.key(0), (3, 7, 8, inputs), jnp.float64)
        w = jax.random.normal(jax.random.key(1), (kernel, kernel, inputs // groups, 6), jnp.float64)
        y, plain = jax.vjp(lambda x, w: xla(geometry, x, w), x, w)
        z, fast = jax.vjp(lambda x, w: convolutions.fast_convolve(geometry, x, w), x, w)
        np.testing.assert_allclose(y, z)
        g = jax.random.normal(jax.random.key(2), y.shape, jnp.float64)
        for one, two in zip(fast(g), plain(g), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-10)
        each = convolutions.kernel_gradients(geometry, w.shape, x, g)
        for i in range(3):
            one = jax.vjp(lambda w, i=i: xla(geometry, x[i : i + 1], w), w)[1]
            np.testing.assert_allclose(each[i], one(g[i : i + 1])[0], rtol=1e-10, atol=1e-10)


GEOMETRIES = [
    ((1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    ((2, 2), ((1, 1), (1, 1)), (1, 1), 1),
    ((1, 1), ((2, 2), (2, 2)), (2, 2), 1),
    ((2, 1), ((0, 1), (2, 0)), (1, 2), 1),
    ((2, 2), ((1, 1), (1, 1)), (1, 1), 2),
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_fast_convolution_is_differentiable_twice(geometry, x64):
    x = jax.random.normal(jax.random.key(0), (2, 6, 7, 4), jnp.float64)
    w = jax.random.normal(jax.random.key(1), (3, 3, 4 // geometry[3], 4), jnp.float64)

    def slope(convolve):
        def loss(x, w):
            return jnp.tanh(convolve(geometry, x, w)).sum()

        def length(x, w):
            return sum(jnp.square(g).sum() for g in jax.grad(loss, (0, 1))(x, w))

        return jax.jit(jax.grad(length, (0, 1)))(x, w)

    ours, theirs = slope(convolutions.fast_convolve), slope(xla)
    for one, two in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("geometry", GEOMETRIES[:4])
def test_patches_are_in_the_order_of_the_kernel(geometry, x64):
    strides, padding, dilation, _ = geometry
    x = jax.random.normal(jax.random.key(0), (2, 6, 7, 3), jnp.float64)
    ours = convolutions.unfold(geometry, (3, 3), x)
    theirs = lax.conv_general_dilated_patches(
        x,
        (3, 3),
        strides,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    theirs = theirs.reshape(2, -1, 3, 9).swapaxes(2, 3)  # channels are outermost there
    np.testing.assert_allclose(ours, theirs.reshape(ours.shape), rtol=1e-12)
    w = jax.random.normal(jax.random.key(1), (3, 3, 3, 5), jnp.float64)
    y = convolutions.convolve(geometry, x, w)
    np.testing.assert_allclose(
        (ours @ w.reshape(-1, 5)).reshape(y.shape), y, rtol=1e-10, atol=1e-12
    )


@settings(max_examples=8, deadline=None)
@given(
    size=st.tuples(st.integers(5, 9), st.integers(4, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pad=st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2),
    channels=st.tuples(st.integers(1, 6), st.integers(1, 9)),
)
def test_forms_equal_xlas_convolution(size, kernel, stride, pad, channels):
    geometry = (stride, pad, (1, 1), 1)
    with enable_x64():
        x, w = draw([(3, *size, channels[0]), (*kernel, *channels)])
        y, pull = jax.vjp(partial(xla, geometry), x, w)
        (g,) = draw([y.shape], 1)
        np.testing.assert_allclose(convolutions.convolve(geometry, x, w), y, **CLOSE)
        back = convolutions.input_gradient(geometry, x, w, g)
        np.testing.assert_allclose(back, pull(g)[0], **CLOSE)
        each = convolutions.kernel_gradients(geometry, w.shape, x, g)
        np.testing.assert_allclose(each.sum(0), pull(g)[1], **CLOSE)


@pytest.mark.parametrize(
    ("width", "channels"), [(8, (3, 8)), (8, (8, 8)), (12, (4, 4)), (6, (2, 3))]
)
def test_a_narrow_convolution_is_computed_in_blocks(width, channels):
    geometry = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    with enable_x64():
        x, w = draw([(2, 5, width, channels[0]), (3, 3, *channels)])
        assert convolutions._pixels_at_once(geometry, x, w) > 1
        expected = xla(geometry, x, w)
        np.testing.assert_allclose(convolutions.convolve(geometry, x, w), expected, **CLOSE)


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (2, 2), (5, 1)])
def test_average_pool_counts_real_pixels_only(size, stride):
    with enable_x64():
        (x,) = draw([(2, 8, 6, 3)])
        pad = size // 2 if size % 2 else 0
        window, strides = (1, size, size, 1), (1, stride, stride, 1)
        padding = ((0, 0), (pad, pad), (pad, pad), (0, 0))
        add = lambda a: lax.reduce_window(a, np.float64(0), lax.add, window, strides, padding)  # noqa: E731
        expected = add(x) / add(jnp.ones_like(x))
        np.testing.assert_allclose(average_pool(x, size, stride), expected, **CLOSE)


@pytest.mark.parametrize("chosen", ["kernel", "scale", "bias", "all", "weights"])
@pytest.mark.parametrize("scale", [None, 0.0])
def test_a_convolution_and_its_norm_have_the_kernel_of_the_jacobian(chosen, scale):
    """Any part of the parameters, and scales of zero, through which no gradient flows back."""

    class Net(ReluConvNorm):
        def __call__(self, x):
            return super().__call__(x).mean((1, 2))

    net = Net(4, 3, 2)
    with enable_x64():
        columns, rows = draw([(4, 6, 6, 3), (3, 6, 6, 3)])
        params = jax.tree.map(jnp.float64, net.init(random.key(1), columns)["params"])
        shift = draw([(4,), (4,)], 2)
        params["norm"]["norm"]["scale"] = shift[0] if scale is None else jnp.zeros(4)
        params["norm"]["norm"]["bias"] = shift[1]
        network = from_module(net, {"params": params})
        predicate = chosen if chosen in ("all", "weights") else lambda path: path[-1] == chosen
        ours, theirs = (
            empirical_ntks(network, columns, (rows,), NTKOptions(engine, predicate))
            for engine in ("one_backward", "jacobian")
        )
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine, other, **CLOSE)
        assert chosen in ("kernel", "weights") or float(jnp.abs(ours[0]).max()) > 0


def test_the_pair_is_one_layer_that_keeps_no_output_of_the_convolution(monkeypatch):
    seen = []
    monkeypatch.setattr(
        taps,
        "tapped",
        lambda layer, params, x, tap: seen.append(layer) or layer.forward(params, x),
    )
    net, images = ReluConvNorm(4), jnp.ones((2, 4, 4, 3))
    network = from_module(net, net.init(random.key(0), images))
    flat = lambda variables, x, mutable=(): (network.apply(variables, x)[0].mean((1, 2)), {})  # noqa: E731
    with jax.checking_leaks():
        known = network._replace(apply=flat, known_layers=True)
        one_backward.one_backward(one_backward.Passes(known, lambda path: True), images, 2)
    assert [type(layer) for layer in seen] == [ConvNormLayer]


def test_convolutions_know_their_geometry():
    for kernel, stride, dilation, groups in ((3, 1, 1, 1), (5, 2, 1, 1), (3, 1, 2, 4)):
        net, x = Conv(4, kernel, stride, dilation, groups), jnp.ones((1, 9, 9, 4))
        variables = net.init(random.key(0), x)
        y = xla(net.geometry(), x, variables["params"]["conv"]["kernel"])
        np.testing.assert_allclose(net.apply(variables, x), y, rtol=1e-5, atol=1e-5)
