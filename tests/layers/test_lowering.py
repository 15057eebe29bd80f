"""Programs as they are lowered for accelerators, on a machine that has none."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import random

from saboc_jax.layers import convolutions
from saboc_jax.layers.lowering import lowered, operations
from saboc_jax.ntk.compute import compute_kernels
from saboc_jax.ntk.network import from_module
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.precision import products_at

STRIDED = ((2, 2), ((0, 0), (0, 0)), (1, 1), 1)
GROUPED = ((2, 2), ((1, 1), (1, 1)), (1, 1), 2)
SHOWS_THROUGH = ("reshape", "transpose", "convert", "case")


def products_of_strided_slices(text):
    """Returns the lines of products that read a strided slice without a barrier between."""
    found, made = [], {}
    for line in text.splitlines():
        match = re.search(r"(%[\w#]+)(?::\d+)? = \"?stablehlo\.(\w+)\"?", line)
        if match is None:
            if (back := re.search(r"stablehlo\.return (%\w+)", line)) and made.get("open"):
                made[made["open"]] = ("reshape", [back[1]], line)
            continue
        name, operation = match.groups()
        operands = re.findall(r"%[\w#]+", line.split("stablehlo.", 1)[1])
        made[name] = (operation, operands, line)
        if operation == "case":
            made["open"] = name
        if operation == "dot_general":
            found += [line for operand in operands[:2] if _is_strided(made, operand)]
    return found


def _is_strided(made, name):
    operation, operands, line = made.get(name, ("", [], ""))
    if operation == "slice":
        return bool(re.search(r"\d+:\d+:\d+", line))
    return operation in SHOWS_THROUGH and any(_is_strided(made, each) for each in operands[:1])


def gradient_rows(x, g):
    return convolutions.kernel_gradient_rows(STRIDED, (1, 1, 4, 5), x, g)


def bare(x, g):
    """The pattern on which the GPU compiler ends the process."""
    return jnp.einsum("npo,npi->noi", g.reshape(3, 16, 5), x[:, ::2, ::2].reshape(3, 16, 4))


class Strided(nn.Module):
    """Strided convolutions of one pixel, of several and of groups, without layers of our own."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (1, 1), (2, 2))(x)
        x = nn.Conv(8, (3, 3), (2, 2), feature_group_count=4)(nn.relu(x))
        x = nn.Conv(8, (1, 1), (2, 2), padding="VALID")(nn.relu(x))  # few places
        return x.reshape(x.shape[0], -1)


def kernel_of(module, images):
    network = from_module(module, module.init(random.key(0), images))
    return lambda images: compute_kernels(network, images, (), NTKOptions())[0]


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_a_barrier_stands_between_strided_slices_and_products(platform):
    x, g = jnp.ones((3, 8, 8, 4)), jnp.ones((3, 4, 4, 5))
    assert products_of_strided_slices(lowered(bare, platform, x, g))
    text = lowered(gradient_rows, platform, x, g)
    assert not products_of_strided_slices(text)
    assert operations(text)["optimization_barrier"] == 1
    assert operations(lowered(gradient_rows, "cpu", x, g))["optimization_barrier"] == 0


def precisions(text):
    """Returns what products and convolutions of a program say of their precision."""
    lines = [
        line for line in text.splitlines() if re.search(r"\b(dot_general|convolution)\b", line)
    ]
    named = [
        re.search(r"precision = \[(\w+), \w+\]|precision_config = \[(.*?)\]", x) for x in lines
    ]
    found = {next(filter(None, each.groups())) if each else "none" for each in named}
    return {re.search(r"HIGHEST|DEFAULT|none", each)[0] for each in found}


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_kernels_are_of_float32_products_unless_a_precision_is_chosen(platform):
    images = random.normal(random.key(1), (4, 17, 17, 3))
    kernel = kernel_of(Strided(), images)
    assert precisions(lowered(kernel, platform, images)) == {"HIGHEST"}
    with products_at("default"):  # inner products of gradients are float32 all the same
        assert precisions(lowered(kernel, platform, images)) == {"HIGHEST", "DEFAULT"}


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_no_kernel_of_a_network_has_such_a_product(platform):
    images = random.normal(random.key(1), (4, 17, 17, 3))
    text = lowered(kernel_of(Strided(), images), platform, images)
    assert not products_of_strided_slices(text)


def test_the_cpu_has_the_bits_of_the_form_without_a_barrier():
    x = random.normal(random.key(0), (3, 8, 8, 4))
    g = random.normal(random.key(1), (3, 4, 4, 5))
    plain = jnp.einsum(
        "npo,npi->noi",
        g.reshape(3, 16, 5),
        x[:, ::2, ::2].reshape(3, 16, 4),
        precision=jax.lax.Precision.HIGHEST,
    )
    np.testing.assert_array_equal(jax.jit(gradient_rows)(x, g), plain)


def rows_of(kernel_shape, x, g):
    geometry = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    return convolutions.kernel_gradient_rows(geometry, kernel_shape, x, g)


def test_gradients_of_all_examples_are_one_product_off_the_cpu():
    shape = (3, 3, 4, 8)
    x, g = random.normal(random.key(0), (5, 8, 8, 4)), random.normal(random.key(1), (5, 8, 8, 8))
    run = partial(rows_of, shape)
    for platform in ("cuda", "tpu"):
        found = operations(lowered(run, platform, x, g))
        assert (found["while"], found["dot_general"]) == (0, 1)
    assert operations(lowered(run, "cpu", x, g))["while"] == 1  # patches stay in the cache
    geometry = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    batched = convolutions._rows_of_patches(convolutions.unfold(geometry, shape, x), g)
    np.testing.assert_allclose(run(x, g), batched, rtol=1e-5, atol=1e-5)


def test_a_platform_has_to_exist():
    with pytest.raises(ValueError, match="platform='npu'; allowed:"):
        lowered(jnp.sin, "npu", jnp.ones(2))
