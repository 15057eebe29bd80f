"""PyTorch modules as candidates, against PyTorch itself in float64."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: the extra `torch`")
pytest.importorskip("torchax", reason="torchax is not installed: the extra `torch`")

import saboc_jax as sj  # noqa: E402
from saboc_jax.layers.fingerprints import digest  # noqa: E402
from saboc_jax.ntk.network import with_batch_statistics  # noqa: E402

ALL = sj.NTKOptions(params="all")
nn = torch.nn


class Net(nn.Module):
    def __init__(self, dropped=0.5, **norm):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4, **norm)
        self.drop = nn.Dropout(dropped)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = self.drop(torch.relu(self.norm(self.conv(x))))
        return self.head(x.mean((2, 3)))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def images(n=4):
    return jax.random.normal(jax.random.key(1), (n, 6, 6, 3))


def as_torch(x):
    return torch.tensor(np.moveaxis(np.array(x), -1, 1))


def rows_of(module, x):
    """Per-example gradients of the sum of outputs, by PyTorch."""
    rows = []
    for example in x:
        module.zero_grad()
        module(example[None]).sum().backward()
        rows.append(torch.cat([p.grad.ravel() for p in module.parameters()]).numpy())
    return np.stack(rows)


def test_batch_norm_is_frozen_at_the_statistics_of_the_batch(x64):
    module = Net(0.0).double()
    network = with_batch_statistics(sj.from_torch(module), images())
    outputs, _ = network.apply(network.variables, images())
    expected = module.train()(as_torch(images()))  # biased variance
    np.testing.assert_allclose(outputs, expected.detach(), rtol=1e-12)


def test_kernel_is_that_of_autograd_at_running_statistics(x64):
    module = Net().double()
    module.norm.running_mean += 0.3
    module.norm.running_var *= 2.0
    options = ALL._replace(batch_norm="running")
    kernel = sj.empirical_ntk(sj.from_torch(module), images(), options=options)
    rows = rows_of(module.eval(), as_torch(images()))
    np.testing.assert_allclose(kernel, rows @ rows.T, rtol=1e-9)


def test_kernel_is_that_of_autograd_at_the_statistics_of_the_batch(x64):
    module = Net().double()
    kernel = sj.empirical_ntk(sj.from_torch(module), images(), options=ALL)
    x = as_torch(images())
    features = module.conv(x).detach()
    module.norm.running_mean = features.mean((0, 2, 3))
    module.norm.running_var = features.var((0, 2, 3), unbiased=False)
    rows = rows_of(module.eval(), x)
    np.testing.assert_allclose(kernel, rows @ rows.T, rtol=1e-9)


def test_a_batch_norm_without_running_statistics_is_frozen_too(x64):
    module = Net(0.0, track_running_stats=False).double()
    network = sj.from_torch(module)
    assert sj.check_ntk(network, images(), ALL).passed
    assert module.norm.running_mean is None  # the user's module is as it was


def test_tied_weights_count_once(x64):
    module = Tied().double()
    network = sj.from_torch(module)
    assert len(jax.tree.leaves(network.variables["params"])) == 1
    x = jax.random.normal(jax.random.key(2), (4, 3))
    rows = rows_of(module, torch.tensor(np.array(x)))
    kernel = sj.empirical_ntk(network, x, options=ALL)
    np.testing.assert_allclose(kernel, rows @ rows.T, rtol=1e-9)


class Caching(nn.Module):
    """Keeps what it computes of its weights, as attention with relative positions does."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.bias = nn.Parameter(torch.randn(3))
        self.kept = {}

    def forward(self, x):
        if self.training or "bias" not in self.kept:
            self.kept["bias"], self.latest = self.bias[[0, 2, 1, 0]], x
        first = nn.functional.linear(input=x, weight=self.first.weight, bias=self.first.bias)
        return self.last(torch.tanh(first + self.kept["bias"]))


def test_what_a_module_keeps_on_itself_does_not_leak(x64):
    module = Caching().double()
    network, x = sj.from_torch(module), np.random.default_rng(0).normal(size=(5, 3))
    for size in (5, 3):  # traced anew for other shapes
        rows = rows_of(module.train(), torch.tensor(x[:size]))
        kernel = sj.empirical_ntk(network, x[:size], options=ALL)
        np.testing.assert_allclose(kernel, rows @ rows.T, rtol=1e-10)


def test_weights_that_are_frozen_and_counters_are_buffers():
    module = Net()
    module.conv.requires_grad_(False)
    network = sj.from_torch(module)
    assert len(jax.tree.leaves(network.variables["params"])) == 4
    assert set(network.variables["buffers"]) == {"conv", "norm"}


def test_fresh_weights_are_those_of_the_seed():
    before = torch.random.get_rng_state()
    fresh, key = sj.from_torch(lambda: Net()), jax.random.key(3)
    drawn, again = jax.jit(fresh.init)(key), fresh.init(key)
    other = fresh.init(jax.random.key(4))
    assert (torch.random.get_rng_state() == before).all()
    with torch.random.fork_rng(devices=[]):
        high, low = (int(word) for word in jax.random.bits(key, (2,), "uint32"))
        torch.manual_seed((high << 32) + low)
        expected = Net().conv.weight.detach().numpy()
    np.testing.assert_array_equal(drawn["params"]["conv"]["weight"], expected)
    np.testing.assert_array_equal(again["params"]["conv"]["weight"], expected)
    assert (other["params"]["conv"]["weight"] != drawn["params"]["conv"]["weight"]).any()


class Slow(Net):
    """Lets other threads run while it draws, and while it runs."""

    def __init__(self, **norm):
        time.sleep(0.02)
        super().__init__(**norm)

    def forward(self, x):
        time.sleep(0.02)
        return super().forward(x)


def test_several_threads_run_one_module_and_draw_as_one_does():
    network, keys = sj.from_torch(lambda: Slow()), list(jax.random.split(jax.random.key(0), 8))

    def outputs(key):
        variables = network.init(key)
        return np.asarray(jax.jit(network.apply)(variables, images())[0])

    alone = [outputs(key) for key in keys]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(outputs, keys))
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_digests_of_draws_are_by_content():
    def of(make):
        return digest(jax.make_jaxpr(sj.from_torch(make).init)(jax.random.key(0)))

    assert of(lambda: Net()) == of(lambda: Net(0.5))
    assert of(lambda: Net()) != of(lambda: nn.Sequential(nn.Flatten(), nn.Linear(108, 5)))


def test_images_are_turned_unless_asked_not_to():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(108, 2))
    first, second = (sj.from_torch(linear, layout=layout) for layout in ("NCHW", "NHWC"))
    turned = jnp.moveaxis(images(), -1, 1)
    outputs = first.apply(first.variables, images())[0]
    np.testing.assert_allclose(outputs, second.apply(second.variables, turned)[0], rtol=1e-6)
    with pytest.raises(ValueError, match="layout='NWHC'; allowed"):
        sj.from_torch(linear, layout="NWHC")


@pytest.mark.parametrize("given", [3, lambda: 3, nn.Linear])
def test_what_is_no_module_is_refused(given):
    with pytest.raises(ValueError, match=r"allowed: a torch\.nn\.Module"):
        sj.from_torch(given)


def test_a_module_without_parameters_is_refused():
    with pytest.raises(ValueError, match="Flatten has no parameters that are trained"):
        sj.from_torch(nn.Flatten())


def test_a_pair_that_does_not_import_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "torchax").mkdir()
    (tmp_path / "torchax" / "__init__.py").write_text("raise AttributeError('it is gone')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchax"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "saboc_jax.frameworks.torch")
    with pytest.raises(ImportError, match=r"does not import beside torch .*pip install"):
        sj.from_torch(nn.Linear(3, 2))
