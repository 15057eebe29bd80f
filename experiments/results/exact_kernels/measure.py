# mypy: ignore-errors
# ruff: noqa: D101, D103
"""Exactness, time and memory of kernels read from programs, for models of several kinds.

Run from the root of a clone: python experiments/results/exact_kernels/measure.py [names]

For each model, all weights, sum of outputs: the relative difference of the kernel from one
gradient for each example in float64 with weights moved from their initial values; then in float32
the seconds of the kernel, and the bytes of its compiled program, divided by those of the gradient
of the batch in the same run (median of five); seconds of compiling; the differences of the
self-check.
"""

import csv
import os
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

import saboc_jax as sj
from saboc_jax.ntk.compute import compute_kernels
from saboc_jax.precision import enable_x64

ALL = sj.NTKOptions(params="all")
HERE = Path(__file__).parent


class Residual(nn.Module):
    width: int = 16
    norm: type = nn.BatchNorm

    @nn.compact
    def __call__(self, x, train=False):
        norm = partial(nn.BatchNorm, use_running_average=not train)
        x = nn.relu(nn.Conv(self.width, (3, 3))(x))
        for i, wider in enumerate((1, 1, 2, 2, 4, 4)):
            strides = 2 if i in (2, 4) else 1
            y = nn.Conv(self.width * wider, (3, 3), strides, use_bias=False)(x)
            y = nn.Conv(self.width * wider, (3, 3), use_bias=False)(nn.relu(norm()(y)))
            y = norm()(y)
            if x.shape != y.shape:
                x = nn.Conv(self.width * wider, (1, 1), strides, use_bias=False)(x)
            x = nn.relu(x + y)
        return nn.Dense(10)(x.mean((1, 2)))


class StandardConv(nn.Conv):
    def param(self, name, *args, **kwargs):
        value = super().param(name, *args, **kwargs)
        if name != "kernel":
            return value
        return (value - value.mean((0, 1, 2))) / jnp.sqrt(value.var((0, 1, 2)) + 1e-5)


class WeightStandardised(nn.Module):
    @nn.compact
    def __call__(self, x):
        for width in (16, 32, 32):
            x = nn.relu(nn.GroupNorm(4)(StandardConv(width, (3, 3), 2)(x)))
        return nn.Dense(10)(x.mean((1, 2)))


class Transformer(nn.Module):
    width: int = 96
    layers: int = 4

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (4, 4), 4)(x).reshape(len(x), -1, self.width)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        for _ in range(self.layers):
            x = x + nn.MultiHeadDotProductAttention(3)(nn.LayerNorm()(x))
            x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x))))
        return nn.Dense(10)(nn.LayerNorm()(x).mean(1))


class Next(nn.Module):
    width: int = 32

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (4, 4), 4)(x)
        for _ in range(3):
            y = nn.LayerNorm()(nn.Conv(self.width, (7, 7), feature_group_count=self.width)(x))
            x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(y)))
        return nn.Dense(10)(x.mean((1, 2)))


class Inverted(nn.Module):
    """MobileNet's and EfficientNet's blocks, with squeeze and excitation."""

    @nn.compact
    def __call__(self, x, train=False):
        norm = partial(nn.BatchNorm, use_running_average=not train)
        x = nn.silu(norm()(nn.Conv(16, (3, 3), 2, use_bias=False)(x)))
        for width, strides in ((16, 1), (24, 2), (24, 1)):
            y = nn.silu(norm()(nn.Conv(4 * x.shape[-1], (1, 1), use_bias=False)(x)))
            deep = y.shape[-1]
            y = nn.Conv(deep, (5, 5), strides, feature_group_count=deep, use_bias=False)(y)
            y = nn.silu(norm()(y))
            gate = nn.Dense(deep)(nn.silu(nn.Dense(8)(y.mean((1, 2)))))
            y = norm()(nn.Conv(width, (1, 1), use_bias=False)(y * nn.sigmoid(gate)[:, None, None]))
            x = x + y if x.shape == y.shape else y
        return nn.Dense(10)(x.mean((1, 2)))


class Mixer(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(64, (4, 4), 4)(x).reshape(len(x), -1, 64)
        for _ in range(3):
            y = nn.LayerNorm()(x).swapaxes(1, 2)
            y = nn.Dense(x.shape[1])(nn.gelu(nn.Dense(64)(y)))
            x = x + y.swapaxes(1, 2)
            x = x + nn.Dense(64)(nn.gelu(nn.Dense(128)(nn.LayerNorm()(x))))
        return nn.Dense(10)(x.mean(1))


class UNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        a = nn.relu(nn.Conv(16, (3, 3))(x))
        b = nn.relu(nn.Conv(32, (3, 3))(nn.max_pool(a, (2, 2), (2, 2))))
        up = nn.ConvTranspose(16, (2, 2), (2, 2))(b)
        y = nn.relu(nn.Conv(16, (3, 3))(jnp.concatenate([a, up], -1)))
        return nn.Conv(4, (1, 1))(y).mean((1, 2))


class Language(nn.Module):
    """A decoder whose embedding is its output layer, as in GPT-2."""

    words: int = 30522
    width: int = 64

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(self.words, self.width)
        x = embed(tokens)
        mask = nn.make_causal_mask(tokens)
        for _ in range(2):
            x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x), mask=mask)
            x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x))))
        return embed.attend(nn.LayerNorm()(x)).mean(1)


class Classifier(nn.Module):
    """A token model with a large embedding that is looked up only."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(30522, 64)(tokens)
        x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x))
        x = x + nn.Dense(64)(nn.gelu(nn.Dense(256)(nn.LayerNorm()(x))))
        return nn.Dense(5)(x.mean(1))


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), x.shape[1], -1)
        return nn.Dense(10)(nn.RNN(nn.LSTMCell(64))(x)[:, -1])


class Scanned(nn.Module):
    """Stacked layers under nn.scan and nn.remat."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(64)(x.mean(1).reshape(len(x), -1))

        class Block(nn.Module):
            @nn.compact
            def __call__(self, x, _):
                return x + nn.Dense(64)(nn.gelu(nn.Dense(128)(nn.LayerNorm()(x)))), None

        layers = nn.scan(
            nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=4
        )
        return nn.Dense(10)(layers()(x, None)[0])


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.a, self.b = (nnx.Conv(*each, (3, 3), rngs=rngs) for each in ((3, 32), (32, 64)))
        self.norm = nnx.BatchNorm(32, rngs=rngs)
        self.c, self.d = nnx.Linear(64 * 16, 128, rngs=rngs), nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.avg_pool(nnx.relu(self.norm(self.a(x))), (2, 2), (2, 2))
        x = nnx.avg_pool(nnx.relu(self.b(x)), (4, 4), (4, 4))
        return self.d(nnx.relu(self.c(x.reshape(len(x), -1))))


def images(n):
    return jax.random.normal(jax.random.key(1), (n, 32, 32, 3))


def tokens(n):
    return jax.random.randint(jax.random.key(2), (n, 64), 0, 30522)


MODELS = {
    "ResNet, 6 blocks, batch norm": (Residual(), images),
    "weight-standardised convolutions": (WeightStandardised(), images),
    "vision transformer": (Transformer(), images),
    "ConvNeXt blocks": (Next(), images),
    "inverted bottlenecks with gates": (Inverted(), images),
    "MLP-Mixer": (Mixer(), images),
    "U-Net": (UNet(), images),
    "token classifier, 30,522 words": (Classifier(), tokens),
    "language model, tied 30,522 words": (Language(), tokens),
    "LSTM over rows": (Recurrent(), images),
    "scanned and rematerialised layers": (Scanned(), images),
    "nnx convolutions with batch norm": (sj.from_nnx(Nnx), images),
}


def moved(tree):
    """Float64 weights away from zeros and ones."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    shaken = [
        jnp.asarray(leaf, jnp.float64) + 0.05 * jax.random.normal(key, leaf.shape)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
        else leaf
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, shaken)


def exactness(module, draw, n=4):
    """The relative difference from gradients of single examples, in float64."""
    with enable_x64():
        x = draw(n)
        x = x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x
        variables = moved(module.init(jax.random.key(0), x[:1]))
        if "batch_stats" in variables:
            running = jax.tree.map(jnp.abs, variables["batch_stats"])
            variables = {**variables, "batch_stats": running}
        network = sj.from_module(module, variables)
        options = ALL._replace(batch_norm="running", check=False)
        ours = sj.empirical_ntk(network, x, options=options)

        def one(params, x):
            return network.apply({**variables, "params": params}, x[None])[0].sum()

        def row(x):
            return jax.tree.leaves(jax.grad(one)(variables["params"], x))

        rows = jax.jit(lambda x: jax.lax.map(row, x))(x)
        theirs = sum(r.reshape(n, -1) @ r.reshape(n, -1).T for r in rows)
        return float(jnp.abs(ours - theirs).max() / jnp.abs(theirs).max())


def median(run, *args, times=5):
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        jax.block_until_ready(run(*args))
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def measure(name, module, draw, n=32):
    x = draw(n)
    variables = module.init(jax.random.key(0), x[:1])
    network = sj.from_module(module, variables)

    def loss(params):
        return network.outputs({**variables, "params": params}, x, "batch").sum()

    def kernel(variables, x):
        return compute_kernels(network._replace(variables=variables), x, (), ALL)

    gradient = jax.jit(jax.grad(loss)).lower(variables["params"]).compile()
    start = time.perf_counter()
    compiled = jax.jit(kernel).lower(variables, x).compile()
    compiling = time.perf_counter() - start
    seconds = median(gradient, variables["params"]), median(compiled, variables, x)
    sizes = [each.memory_analysis().temp_size_in_bytes for each in (gradient, compiled)]
    start = time.perf_counter()
    check = sj.check_ntk(network, x, ALL)
    return {
        "model": name,
        "difference in float64": f"{exactness(module, draw):.1e}",
        "gradients": f"{seconds[1] / seconds[0]:.2f}",
        "memory": f"{sizes[1] / max(sizes[0], 1):.2f}",
        "gradient, ms": f"{1e3 * seconds[0]:.1f}",
        "compiling, s": f"{compiling:.1f}",
        "check": "passed" if check.passed else "failed",
        "check, gradient": f"{float(check.differences.gradient):.1e}",
        "check, s": f"{time.perf_counter() - start:.1f}",
    }


def main(wanted):
    rows = []
    for name, (module, draw) in MODELS.items():
        if not wanted or any(each in name for each in wanted):
            rows.append(measure(name, module, draw))
            print(rows[-1], flush=True)
    if wanted:
        return
    with open(HERE / "kernels.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    os.environ.setdefault("XLA_FLAGS", "")
    main(sys.argv[1:])
