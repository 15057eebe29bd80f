"""Spaces of benchmarks: costs of the traced modules, texts, errors."""

import jax
import numpy as np
import pytest
from flax import linen as nn

import saboc_jax as sj
from saboc_jax.layers.ops import Block
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.spaces.plain import only_architecture
from saboc_jax.spaces.transformers import autoformer, layers, pit
from saboc_jax.types import OneProgram

PIT = '{"base_dim":24,"mlp_ratio":6,"depth":[1,4,2],"num_heads":[2,4,8]}'
AUTOFORMER = (
    '{"hidden_dim":216,"mlp_ratio":[4.0,3.5,4.0,4.0,4.0,3.5,3.5,3.5,4.0,4.0,4.0,4.0],"depth":12,'
    '"num_heads":[3,4,4,3,3,3,3,4,4,4,4,3]}'
)
# Options of a small network, and texts.
CASES = {
    "nas_bench_macro": ({"channels": 3}, ["00000000", "01201210"]),
    "nats_sss": (
        {"channels": 16, "num_cells": 2, "image_shape": (8, 12, 3)},
        ["8:16:8:64:24"],
    ),
    "autoformer": ({"channels": 2, "image_shape": (9, 20, 3)}, [AUTOFORMER]),
    "pit": ({"channels": 3}, [PIT, PIT.replace("[2,4,8]", "[4,4,4]")]),
    "transnas_micro": ({"channels": 3, "num_cells": 2}, ["(1,0,2,3,1,1)"]),
    "transnas_macro": ({"channels": 3}, ["(1,2,3,4)", "(4,4,1,3,3,1)"]),
}


@pytest.fixture(params=CASES)
def case(request):
    options, texts = CASES[request.param]
    options = {"image_shape": (9, 12, 3), "num_classes": 4} | options
    return sj.make_space(request.param, **options), texts


def traced_cost(space, arch):
    """Parameters, multiply-accumulates and depth of the module."""
    module = space.specialise(arch)
    images = jax.ShapeDtypeStruct((1, *space.image_shape), np.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    work = sj.count_work(module.apply, variables, images)
    return (sum(leaf.size for leaf in jax.tree.leaves(variables["params"])), *work)


def test_the_cost_is_that_of_the_module(case):
    space, texts = case
    for text in texts:
        arch = space.from_string(text)
        assert space.to_string(arch) == text
        assert tuple(space.cost(arch)) == traced_cost(space, arch)


def test_outputs_of_stem_and_layers_are_marked_and_the_last_are_features(case):
    """AZ-NAS reads the marks in order, Zen the features, which are maps of many channels."""
    space, texts = case
    module, marks = space.specialise(space.from_string(texts[-1])), []

    def note(call, args, kwargs, context):
        if isinstance(context.module, Block) and context.method_name == "__call__":
            marks.append(("/".join(context.module.path), args[0].ndim))
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        images = jax.ShapeDtypeStruct((1, *space.image_shape), np.float32)
        jax.eval_shape(module.init, jax.random.key(0), images)
    assert len(marks) >= 3 and marks[-1][0].endswith("features")
    assert "stem" in marks[0][0] or space.name in ("autoformer", "pit")


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("nas_bench_macro", "0123", "eight numbers from 0 to 2"),
        ("nas_bench_macro", "00000003", "eight numbers from 0 to 2"),
        ("nats_sss", "16:16:16:16:12", "five numbers of 8, 16"),
        ("nats_sss", "16:16", "five numbers of 8, 16"),
        ("transnas_micro", "64-41414-0_12_3", "six numbers from 0 to 3"),
        ("transnas_micro", "0,0,0,0,0,4", "0 to 3"),
        ("transnas_macro", "1,2,3", "four to six numbers from 1 to 4"),
        ("transnas_macro", "1,1,1,1", "1 to 3 and 1 to 4 times"),
    ],
)
def test_a_wrong_text_is_one_sentence(name, text, allowed):
    with pytest.raises(ValueError, match=f"allowed: .*{allowed}"):
        sj.trained_cost(text, name)


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("pit", "[2,4,8]", "[8,4,2]", r"num_heads=\[8, 4, 2\]; allowed: numbers that divide"),
        ("pit", "[2,4,8]", "[2,4]", "num_heads has 2 values; allowed: 3"),
        ("pit", ":24", ":20", "base_dim=20; allowed: 16, 24, 32, 40"),
        ("pit", "[1,4,2]", "[1,4,8]", "depth of stage 2=8; allowed: 2, 4, 6"),
        ("autoformer", '"num_heads":[3', '"num_heads":[5', "num_heads=5; allowed: 3, 4"),
        ("autoformer", '"depth":12', '"depth":13', "num_heads has 12 values; allowed: 13"),
        ("autoformer", "hidden_dim", "width", "allowed: hidden_dim, mlp_ratio, depth, num_heads"),
    ],
)
def test_a_wrong_transformer_is_one_sentence(name, old, new, said):
    text = {"pit": PIT, "autoformer": AUTOFORMER}[name].replace(old, new)
    with pytest.raises(ValueError, match=said):
        sj.trained_cost(text, name)


def test_heads_that_do_not_divide_are_ranked_last_and_small_images_have_small_patches():
    space = sj.make_space("pit", channels=3)
    fewer = architecture_to_mask(np.array([0, 0, 0, 0, 0, 2, 1, 0]), 4)
    assert not space.is_connected(fewer) and space.is_connected(np.ones((8, 4), bool))
    with pytest.raises(ValueError, match="allowed: numbers that divide the next one"):
        space.specialise(fewer.argmax(1))
    with pytest.raises(ValueError, match=r"5 heads do not divide 12 features; allowed.*1, 2, 3, 4"):
        layers.check_heads(12, 5)
    for side, patch, stride in ((224, 16, 8), (64, 16, 8), (32, 8, 4), (9, 2, 1), (2, 2, 1)):
        size = pit.NetworkSize(image_shape=(side, side, 3))
        assert (size.patch, size.stride) == (patch, stride)
    for side, grid in ((224, 14), (64, 4), (63, 7), (32, 4), (9, 4), (3, 3)):
        assert autoformer.NetworkSize(image_shape=(side, side, 3)).grid == (grid, grid)


def test_a_supernet_is_refused(case):
    space, _ = case
    if isinstance(space.networks, OneProgram):
        pytest.skip("this space has supernets")
    with pytest.raises(ValueError, match=f"'{space.name}' has no supernet"):
        space.program(np.ones((len(space.choices), max(space.choices)), bool))
    with pytest.raises(ValueError, match="chooses option 9"):
        only_architecture([9] * len(space.choices), space.choices, space.name)


def test_texts_of_transnas_are_read_as_the_benchmark_writes_them():
    micro, macro = (sj.make_space(f"transnas_{kind}") for kind in ("micro", "macro"))
    assert micro.to_string(micro.from_string("64-41414-1_02_333")) == "(1,0,2,3,3,3)"
    assert macro.to_string(macro.from_string("64-23114-basic")) == "(2,3,1,1,4)"
    assert macro.to_string(macro.from_string("(2,3,1,1,4,0)")) == "(2,3,1,1,4)"
