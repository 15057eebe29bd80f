"""The torch networks of the benchmark are ours: same logits, same kernel, same loss gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saboc_jax.ntk.empirical import empirical_ntk
from saboc_jax.ntk.network import bind
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.precision import enable_x64
from saboc_jax.spaces.nas_bench_201.space import nas_bench_201, operation_names
from saboc_jax.spaces.nas_bench_201.torch_weights import load_torch_state

torch = pytest.importorskip("torch", reason="torch is not installed: the extra `peers`")
from experiments.benchmarking import torch_peers  # noqa: E402  # it imports torch

CELLS = (
    "|nor_conv_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|",
    "|nor_conv_1x1~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_3x3~1|none~2|",
)
N, CLASSES = 4, 3


@pytest.fixture(scope="module")
def nets():
    """(torch network, its batch, our variables, our gates, the images) of each cell."""
    torch.manual_seed(0)
    with enable_x64():
        space = nas_bench_201(2, 2, CLASSES, (8, 8, 3))
        images = np.asarray(jax.random.normal(jax.random.key(0), (N, 8, 8, 3), jnp.float64))
        found = []
        for text in CELLS:
            arch = space.from_string(text)
            net = torch_peers.MacroNet(operation_names(arch), 2, 2, CLASSES).double()
            for parameter in net.parameters():  # scales and biases away from one and zero
                parameter.data += 0.1 * torch.randn_like(parameter)
            variables = load_torch_state(space, arch, torch_peers.state_of(net))
            batch = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
            found.append((net, batch, variables, space.gates(arch)))
        return space, images, found


def test_logits_are_ours(nets):
    space, images, found = nets
    run = jax.jit(lambda v, g: space.apply(v, g, images)[0])
    with enable_x64():
        for net, batch, variables, gates in found:
            theirs = net(batch).detach().numpy()
            assert np.abs(theirs).max() > 0.01
            np.testing.assert_allclose(run(variables, gates), theirs, rtol=1e-9, atol=1e-10)


def test_kernel_is_ours_with_batch_statistics(nets):
    space, images, found = nets
    options = NTKOptions("jacobian", batch_norm="batch")
    with enable_x64():
        run = jax.jit(lambda v, g: empirical_ntk(bind(space, v, g), images, None, options))
        for net, batch, variables, gates in found:
            theirs = torch_peers.ntk(net, batch).numpy()
            np.testing.assert_allclose(run(variables, gates), theirs, rtol=1e-8)


def test_a_training_step_gives_every_parameter_its_gradient(nets):
    net, batch, *_ = nets[2][0]
    net.zero_grad()
    loss = net(batch).square().mean()
    expected = torch.autograd.grad(loss, list(net.parameters()), materialize_grads=True)
    for ours, theirs in zip(torch_peers.train_step(net, batch), expected, strict=True):
        assert torch.allclose(torch.zeros_like(theirs) if ours is None else ours, theirs)
