"""The structure of a program equals that of the formulas, and that of graphs drawn by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from saboc_jax.layers.program_structure import read_structure
from saboc_jax.spaces import make_space
from saboc_jax.spaces.darts import structure as darts_structure
from saboc_jax.spaces.darts.costs import NetworkSize, cost
from saboc_jax.spaces.darts.network import DartsNet
from saboc_jax.spaces.darts.trained import genotype_of
from saboc_jax.spaces.nas_bench_201 import cells as nas_bench_201_cells
from saboc_jax.spaces.nas_bench_201 import structure as nas_bench_201_structure
from saboc_jax.spaces.nas_bench_201.space import MacroNet, operation_names
from saboc_jax.spaces.resnet.encoding import START


def of_module(module, side=32, channels=3):
    image = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    rest = {name: tree for name, tree in variables.items() if name != "params"}

    def run(params, rest, image):
        return module.apply({"params": params, **rest}, image)

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), rest)
    return read_structure(
        lambda params, image: run(params, zeros, image), variables["params"], image
    )


CELLS = [
    "|nor_conv_3x3~0|+|avg_pool_3x3~0|skip_connect~1|+|skip_connect~0|nor_conv_1x1~1|avg_pool_3x3~2|",
    "|none~0|+|skip_connect~0|nor_conv_3x3~1|+|avg_pool_3x3~0|nor_conv_1x1~1|skip_connect~2|",
    "|avg_pool_3x3~0|+|avg_pool_3x3~0|none~1|+|avg_pool_3x3~0|avg_pool_3x3~1|none~2|",
    "|nor_conv_1x1~0|+|none~0|none~1|+|none~0|none~1|nor_conv_3x3~2|",
]


@pytest.mark.parametrize("text", CELLS)
def test_a_cell_of_nas_bench_201(text):
    arch = make_space("nas_bench_201").from_string(text)
    formula = nas_bench_201_structure.structure(arch, 4, 1)
    assert of_module(MacroNet(operation_names(arch), 4, 1)) == formula
    connected = "none~0|none~1|nor" not in text
    assert formula.params == nas_bench_201_cells.cost(arch, 4, 1).params
    assert (formula.longest > 0) == connected
    assert make_space("nas_bench_201", channels=4).costs.structure(arch) == (
        nas_bench_201_structure.structure(arch)
    )  # whatever the size of the scoring network


def test_genotypes_of_darts():
    space, size = make_space("darts_genotypes"), NetworkSize(4, 3)
    rng = np.random.default_rng(1)
    for _ in range(2):
        genotype = genotype_of(space, rng.integers(0, space.choices))
        formula = darts_structure.structure(genotype, size)
        assert of_module(DartsNet(genotype, size)) == formula
        assert formula.params == cost(genotype, size).params


def test_a_resnet_and_its_bottlenecks():
    space = make_space("resnet")
    text = START.replace("SuperResK3K3(16,32,2,16,1)", "SuperResK1K5K1(16,32,2,8,1)")
    text = text.replace("SuperResK3K3(64,64,2,32,1)", "")
    arch = space.from_string(text)
    assert of_module(space.specialise(arch)) == space.costs.structure(arch)
    assert space.costs.structure(arch).params == space.cost(arch).params


class Hand(nn.Module):
    kind: str

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3))(x)
        y = {
            "gelu": lambda: nn.gelu(x),
            "silu": lambda: x * nn.sigmoid(x),
            "layer norm": lambda: nn.LayerNorm()(x),
            "squeeze": lambda: x * nn.sigmoid(nn.Dense(4)(x.mean((1, 2), keepdims=True))),
            "residual": lambda: x + nn.Conv(4, (1, 1))(nn.relu(x)),
            "max pool": lambda: x + nn.max_pool(x, (2, 2), (1, 1), "SAME"),
            "global pool": lambda: nn.avg_pool(x, x.shape[1:3]),
            "twice": lambda: x + x,
            "concatenated": lambda: nn.Conv(4, (1, 1))(
                jnp.concatenate([x, nn.Conv(4, (1, 1))(nn.Conv(4, (1, 1))(x))], -1)
            ),
            "scan": lambda: self.scanned(x),
        }[self.kind]()
        return nn.Dense(3)(y.mean((1, 2)))

    def scanned(self, x):
        kernels = self.param("kernels", nn.initializers.normal(), (3, 4, 4))
        return jax.lax.scan(lambda x, kernel: (x + x @ kernel, None), x, kernels)[0]


@pytest.mark.parametrize(
    "kind, longest, mean, pool_free",
    [
        ("gelu", 2, 2, 1),
        ("silu", 2, 2, 1),
        ("layer norm", 2, 2, 1),
        ("squeeze", 2, 2, 1),
        ("residual", 3, 2.5, 2),
        ("max pool", 2, 2, 1),
        ("global pool", 2, 2, 1),
        ("twice", 2, 2, 2),
        ("concatenated", 5, 4, 2),
        ("scan", 5, 3.5, 8),
    ],
)
def test_a_network_drawn_by_hand(kind, longest, mean, pool_free):
    module = Hand(kind)
    found = of_module(module, 8)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    assert found[:3] == (longest, mean, pool_free)
    assert found.chain == (3 if kind == "concatenated" else longest)
    assert (
        found.live_params
        == found.params
        == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    )
