"""Training time: against neural-tangents, and against training a linearised network."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from two_layers import layers as f
from two_layers import weights

import saboc_jax as sj
from saboc_jax.ntk import _neural_tangents
from saboc_jax.ntk.options import NTKOptions

N, M, K = 8, 5, 3
pytestmark = pytest.mark.usefixtures("x64")
TIMES = np.array([0.0, 0.3, 2.0, 40.0])
FULL = NTKOptions(outputs="full", params="all")


def case(loss="square"):
    keys = jax.random.split(jax.random.key(0), 5)
    params = weights(keys, 4, 12, K)
    x, other = (jax.random.normal(key, (n, 4), float) for key, n in ((keys[2], N), (keys[3], M)))
    targets = jax.nn.one_hot(jnp.arange(N) % K, K)
    if loss == "square":
        targets = targets + jax.random.normal(keys[4], (N, K), float)
    return params, x, other, targets


def kernels(params, x, other, options=FULL):
    return sj.empirical_ntks(sj.from_function(f, params), x, (other,), options)


def reference():
    try:
        return _neural_tangents.load().predict
    except ImportError:
        pytest.skip("neural-tangents (extra `reference`) is not installed")


def mean_loss(loss):
    if loss == "square":
        return lambda f, y: jnp.square(f - y).sum(-1).mean() / 2
    return lambda f, y: -(y * jax.nn.log_softmax(f)).sum(-1).mean()


def close(found, wanted, tolerance=1e-9):
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("outputs", ["full", "trace"])
def test_gradient_flow_under_square_loss_is_that_of_neural_tangents(outputs):
    params, x, other, targets = case()
    own, rows = kernels(params, x, other, NTKOptions(outputs=outputs, params="all"))
    axes = () if outputs == "full" else (-1,)
    predict = reference().gradient_descent_mse(own, targets, trace_axes=axes)
    # Theirs is a mean over outputs as well.
    train, test = predict(TIMES * K, f(params, x), f(params, other), rows)
    found = sj.linearised_training(own, targets, f(params, x)).at(TIMES, rows, f(params, other))
    close(found.train, train, 1e-7)
    close(found.test, test, 1e-7)
    close(found.losses, jnp.square(train - targets).sum((1, 2)) / (2 * N), 1e-7)


def test_gradient_flow_under_cross_entropy_is_that_of_neural_tangents():
    params, x, other, targets = case("cross_entropy")
    own, rows = kernels(params, x, other)
    predict = reference().gradient_descent(mean_loss("cross_entropy"), own, targets, trace_axes=())
    train, test = predict(TIMES[1:], f(params, x), f(params, other), rows)
    training = sj.linearised_training(own, targets, f(params, x), loss="cross_entropy")
    found = training.at(TIMES, rows, f(params, other))
    close(found.train[1:], train, 1e-5)
    close(found.test[1:], test, 1e-5)
    close(found.train[0], f(params, x))


def trained(loss, rate, momentum, steps):
    """Trains the network that is linearised at its weights; outputs after every step."""
    params, x, other, targets = case(loss)

    def linear(moved, x):
        return sum(jax.jvp(lambda p: f(p, x), (params,), (moved,)))

    optimiser = optax.sgd(rate, momentum)
    moved = jax.tree.map(jnp.zeros_like, params)
    state = optimiser.init(moved)

    @jax.jit
    def step(moved, state):
        slope = jax.grad(lambda moved: mean_loss(loss)(linear(moved, x), targets))(moved)
        updates, state = optimiser.update(slope, state)
        return optax.apply_updates(moved, updates), state

    outputs = [(linear(moved, x), linear(moved, other))]
    for _ in range(steps):
        moved, state = step(moved, state)
        outputs.append((linear(moved, x), linear(moved, other)))
    return (np.stack(each) for each in zip(*outputs, strict=True))


@pytest.mark.parametrize("loss", ["square", "cross_entropy"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_descent_is_the_training_of_the_linearised_network(loss, momentum):
    rate, steps = 0.05, 30
    train, test = trained(loss, rate, momentum, steps)
    params, x, other, targets = case(loss)
    own, rows = kernels(params, x, other)
    training = sj.linearised_training(
        own, targets, f(params, x), loss=loss, learning_rate=rate, momentum=momentum
    )
    found = training.at(np.arange(steps + 1), rows, f(params, other))
    close(found.train, train)
    close(found.test, test)
    losses = [float(mean_loss(loss)(each, targets)) for each in train]
    close(found.losses, losses)
    wanted = losses[20] * (1 + 1e-9)
    assert training.time_to(wanted) == next(i for i, each in enumerate(losses) if each <= wanted)


@pytest.mark.parametrize("loss", ["square", "cross_entropy"])
def test_time_to_a_loss_of_gradient_flow(loss):
    params, x, other, targets = case(loss)
    training = sj.linearised_training(
        kernels(params, x, other)[0], targets, f(params, x), loss=loss
    )
    for time in (0.5, 20.0):
        wanted = float(training.at([time]).losses[0])
        assert training.time_to(wanted) == pytest.approx(time, rel=1e-5)
    assert training.time_to(1e9) == 0
    assert training.time_to(1e-9, most=1.0) == np.inf


def test_what_a_singular_kernel_cannot_reach_is_never():
    kernel = np.diag([2.0, 1.0, 0.0])
    training = sj.linearised_training(kernel, np.ones((3, 1)))
    assert training.time_to(1 / 7) == np.inf
    assert np.isfinite(training.time_to(1 / 5))
    close(training.at([1e9]).train[0], [[1], [1], [0]])


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_at_the_limit_of_the_learning_rate_training_turns(momentum):
    params, x, other, targets = case()
    own = kernels(params, x, other)[0]
    limit = sj.linearised_training(own, targets).learning_rate_limit * (1 + momentum)
    values = np.linalg.eigvalsh(own.transpose(0, 2, 1, 3).reshape(N * K, N * K))
    close(limit, 2 * (1 + momentum) * N / values[-1])
    close(limit, sj.learning_rate_limit(values[-1], N, momentum))
    below, above = (
        sj.linearised_training(own, targets, learning_rate=rate * limit, momentum=momentum)
        .at([0, 2000]).losses for rate in (0.99, 1.01)
    )  # fmt: skip
    assert below[1] < below[0] and above[1] > 1e3 * above[0]


@pytest.mark.parametrize("outputs", ["trace", "full"])
@pytest.mark.parametrize(
    ("loss", "more"),
    [("square", {}), ("square", {"learning_rate": 0.1, "momentum": 0.5}), ("cross_entropy", {})],
)
def test_an_operator_gives_what_its_kernel_gives(outputs, loss, more):
    params, x, other, targets = case(loss)
    options, times = NTKOptions(outputs=outputs, params="all"), [0, 1, 12]
    own, rows = kernels(params, x, other, options)
    network = sj.from_function(f, params)
    operator = sj.ntk_operator(network, x, options, products="passes")
    before = f(params, x), f(params, other)
    wanted = sj.linearised_training(own, targets, before[0], loss=loss, **more)
    found = sj.linearised_training(operator, targets, before[0], loss=loss, **more)
    wanted, found = wanted.at(times, rows, before[1]), found.at(times, other, before[1])
    for one, two in zip(found, wanted, strict=True):
        close(one, two, 1e-7)


def test_bad_arguments_are_one_sentence():
    params, x, other, targets = case()
    own, rows = kernels(params, x, other)
    flow = sj.linearised_training(own, targets)
    steps = sj.linearised_training(own, targets, learning_rate=0.1)
    for call, said in (
        (lambda: sj.linearised_training(own, targets, loss="hinge"), "loss='hinge'; allowed"),
        (lambda: sj.linearised_training(own, targets, learning_rate=0.0), "learning_rate=0.0"),
        (lambda: sj.linearised_training(own, targets, learning_rate=1.0, momentum=1.0), "m=1.0"),
        (lambda: sj.linearised_training(own, targets, momentum=0.5), "momentum=0.5 of gradient"),
        (lambda: sj.linearised_training(own, targets[:3]), r"shape \(3, 3\) with a kernel"),
        (lambda: sj.linearised_training(own[0], targets), r"a kernel of shape \(8, 3, 3\)"),
        (lambda: flow.at([2.0, 1.0]), r"times=\[2.0, 1.0\]; allowed"),
        (lambda: flow.at([]), "allowed: not negative"),
        (lambda: steps.at([0.5]), "whole numbers of steps"),
        (lambda: flow.at([1.0], rows[:, :3]), r"rows of shape \(5, 3, 3, 3\)"),
        (lambda: flow.time_to(0.0), "loss=0.0"),
    ):
        with pytest.raises(ValueError, match=said):
            call()
