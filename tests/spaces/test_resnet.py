"""The ResNet space: texts, counting, mutation, networks, and kernels link by link."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saboc_jax.evaluation.evaluator import Evaluator
from saboc_jax.evaluation.jobs import Draws
from saboc_jax.evaluation.runner import Runner
from saboc_jax.layers.programs import ProgramCache
from saboc_jax.layers.tree import flatten
from saboc_jax.ntk.network import NoParameterError
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.scorers import make_scorer
from saboc_jax.scorers.kernels import Kernels
from saboc_jax.spaces import make_space
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.spaces.resnet import encoding
from saboc_jax.types import Batch

RELEASED = (
    "SuperConvK3BNRELU(3,88,1,1)SuperResK1K7K1(88,120,1,16,1)SuperResK1K7K1(120,192,2,16,3)"
    "SuperResK1K5K1(192,224,1,24,4)SuperResK1K5K1(224,96,2,24,2)SuperResK1K3K1(96,168,2,40,3)"
    "SuperResK1K3K1(168,112,1,48,3)SuperConvK1BNRELU(112,512,1,1)"
)
SMALL = (
    "SuperConvK3BNRELU(3,8,1,1)SuperResK3K3(8,16,2,8,1)SuperResK1K5K1(16,8,1,8,1)"
    "SuperConvK1BNRELU(8,16,1,1)"
)
SAME_BUCKETS = SMALL.replace("K3K3(8,16,2,8,1)", "K3K3(8,16,2,16,1)")
WIDER = SMALL.replace("K3K3(8,16", "K3K3(8,24").replace("K1K5K1(16", "K1K5K1(24")
SHAPE = (6, 6, 3)


def make(**options):
    return make_space("resnet", slots=3, max_width=32, num_classes=3, image_shape=SHAPE, **options)


@pytest.fixture(scope="module")
def space():
    return make()


def make_batch():
    draw = lambda seed: jax.random.normal(jax.random.key(seed), (4, *SHAPE))  # noqa: E731
    labels = jnp.array([0, 1, 2, 1])
    return Batch(draw(0), labels, draw(1), labels[::-1], draw(2))


def test_the_released_network_is_counted_as_published():
    space = make_space("resnet")
    arch = space.from_string(RELEASED)
    assert space.to_string(arch) == RELEASED
    structure = encoding.decode(arch)
    ten, hundred = (encoding.zen_size(structure, (32, 32, 3), classes) for classes in (10, 100))
    assert ten.depth == encoding.count_layers(structure) == 18
    assert round(ten.params / 1e6, 3) == 0.985
    assert round(hundred.params / 1e6, 3) == 1.031
    assert round(ten.macs / 1e6, 1) == 160.9


def test_texts_of_random_architectures_return():
    space = make_space("resnet", slots=4, max_width=64)
    random = np.random.default_rng(0)
    for _ in range(50):
        arch = random.integers(0, space.choices)
        text = space.to_string(arch)
        again = space.from_string(text)
        assert space.to_string(again) == text
        assert encoding.decode(again) == encoding.decode(arch)
        assert len(space.cost(arch)) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no structure"),
        ("SuperConvK3BNRELU(3,8,1,1)", "no structure"),
        (SMALL + "!", "no structure"),
        (SMALL.replace("(16,8", "(24,8"), "follows 16 channels"),
        (SMALL.replace("K3K3", "K3K5"), "no super-block"),
        (SMALL.replace("K1BN", "K3BN"), "tail"),
        (SMALL.replace("(3,8,1,1)", "(3,8,2,1)"), "stem"),
        (SMALL.replace("2,8,1)", "3,8,1)"), "stride 1 or 2"),
        (SMALL.replace("2,8,1)", "2,8,6)"), "splits deeper ones"),
        (SMALL.replace("2,8,1)", "2,12,1)"), "multiples of 8"),
        (RELEASED, "super-blocks; allowed: at most 3"),
    ],
)
def test_bad_texts(space, text, message):
    with pytest.raises(ValueError, match=message):
        space.from_string(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slots": 0}, "slots=0"),
        ({"max_width": 12}, "max_width=12"),
        ({"image_shape": (8, 4, 3)}, "image_shape"),
        ({"init": "magic"}, "magic"),
        ({"width": 3}, "width"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        make_space("resnet", **options)


@pytest.mark.parametrize("text", [SMALL, RELEASED])
def test_formulas_count_the_network(text):
    space = make_space("resnet")
    arch = space.from_string(text)
    own, images = space.program(arch), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(own.init, jax.random.key(0))
    cost = space.cost(arch)
    assert cost.params == sum(leaf.size for leaf in jax.tree.leaves(shapes))
    jaxpr = jax.make_jaxpr(lambda v, x: own.apply(v, None, x)[0])(shapes, images)
    macs = 0
    for equation in jaxpr.jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            macs += equation.outvars[0].aval.size * np.prod(equation.invars[1].aval.shape[:3])
    assert cost.macs == macs + cost_of_head(text)


def cost_of_head(text):
    return int(text.split(",")[-3]) * 10


def mutations(arch, number, max_width, blocks=1):
    keys = jax.random.split(jax.random.key(0), number)
    run = jax.jit(jax.vmap(lambda key: encoding.mutate(key, arch, max_width, blocks)))
    return np.asarray(run(keys))


def multiples(width, largest):
    values = {int(np.round(width * m / 8)) * 8 for m in encoding.MULTIPLIERS}
    return {min(max(value, 8), largest) for value in values}


def test_mutations_are_those_of_zen_nas():
    space = make_space("resnet")
    arch = space.from_string(encoding.START)
    before = encoding.decode(arch)
    seen = {"stem": set(), "tail": set(), "kind": set(), "out": set(), "layers": set()}
    for child in map(encoding.decode, mutations(jnp.asarray(arch), 2000, encoding.MAX_WIDTH)):
        changed = [
            i for i, (a, b) in enumerate(zip(before.blocks, child.blocks, strict=True)) if a != b
        ]
        assert len(changed) + (child.stem != before.stem) + (child.tail != before.tail) <= 1
        seen["stem"].add(child.stem)
        seen["tail"].add(child.tail)
        for place in changed:
            old, new = before.blocks[place], child.blocks[place]
            assert new.stride == old.stride
            assert new.out in multiples(old.out, 2048)
            assert new.bottleneck in multiples(old.bottleneck, 2048)
            seen["kind"].add(new.kind)
            seen["layers"].add(new.sub_layers)
            seen["out"] |= {new.out} if place == 3 else set()
    assert seen["stem"] == multiples(8, 2048)
    assert seen["tail"] == multiples(128, 2048)
    assert seen["out"] == multiples(64, 2048)
    assert seen["kind"] == set(encoding.KINDS[1:])
    assert seen["layers"] == {1, 2, 3}


def test_two_blocks_are_drawn_at_once_and_each_is_mutated_once():
    space = make_space("resnet")
    before = encoding.decode(
        space.from_string(encoding.START.replace("(8,16,1,8,1)", "(8,16,1,8,4)"))
    )
    arch = jnp.asarray(encoding.encode(before, 16, encoding.MAX_WIDTH))
    numbers = []
    for child in map(encoding.decode, mutations(arch, 1000, encoding.MAX_WIDTH, blocks=2)):
        if len(child.blocks) == 5:  # the first was too deep
            first, second, *others = child.blocks
            assert (first.sub_layers, second.sub_layers, second.stride) in {(3, 3, 1)}
            assert first[:2] == second[:2]
            assert first.stride == before.blocks[0].stride
            changes = 1
        else:
            others, changes = child.blocks[1:], int(child.blocks[0] != before.blocks[0])
            assert child.blocks[0].sub_layers in range(2, 6)
        for old, new in zip(before.blocks[1:], others, strict=True):
            assert new.out in multiples(old.out, 2048)
            assert new.bottleneck in multiples(old.bottleneck, 2048)
            assert new.sub_layers in (1, 2, 3) and new.stride == old.stride
            changes += old != new
        assert child.stem in multiples(8, 2048) and child.tail in multiples(128, 2048)
        numbers.append(changes + (child.stem != 8) + (child.tail != 128))
    assert set(numbers) == {0, 1, 2}
    # A pair of equal draws, one in six, changes one.
    assert 0.6 < np.mean(np.array(numbers) == 2) < 5 / 6


@pytest.mark.parametrize("slots", [2, 3])
def test_a_deep_block_is_split_in_two(slots):
    space = make_space("resnet", slots=slots, max_width=32)
    deep = "SuperConvK3BNRELU(3,8,1,1)SuperResK3K3(8,8,2,8,5)SuperResK5K5(8,16,2,8,1)"
    arch = space.from_string(deep + "SuperConvK1BNRELU(16,8,1,1)")
    splits = 0
    for row in mutations(jnp.asarray(arch), 300, 32):
        child = encoding.decode(row)
        assert space.from_string(space.to_string(row)).tolist() == row.tolist()
        if len(child.blocks) == 3:
            first, second, last = child.blocks
            assert (first.sub_layers, first.stride, second.stride) == (3, 2, 1)
            assert second.sub_layers in (3, 4)
            assert (first.kind, first.out, first.bottleneck) == (
                second.kind,
                second.out,
                second.bottleneck,
            )
            assert last == encoding.SuperBlock("K5K5", 16, 2, 8, 1)
            splits += 1
        assert all(block.sub_layers <= 5 for block in child.blocks)
    assert (splits > 0) == (slots == 3)


# By hand: different layers forward, and backward but for the stem, sums of two cotangents, sizes of
# draws.
@pytest.mark.parametrize(
    ("pad_widths", "compilations"), [(True, 10 + 9 + 2 + 5), (False, 13 + 12 + 3 + 5)]
)
def test_the_kernel_link_by_link_is_that_of_the_network_and_the_jacobian(
    x64, pad_widths, compilations
):
    space = make(pad_widths=pad_widths)
    own = space.program(space.from_string(SMALL))
    assert any(link.runs != link.module for link in own.networks.chain.links) == pad_widths
    key, batch = jax.random.key(2), make_batch()._replace(labels=None)
    batch = jax.tree.map(lambda a: a.astype(jnp.float64), batch)

    def kernel(engine, pieces):
        options = NTKOptions(engine=engine, params=lambda path: path[0] != "stem")
        see = Kernels(own, options, ("test_images", "perturbed_images"), pieces)
        run = lambda batch: see(key, None, batch)  # noqa: E731
        return (run if pieces else jax.jit(run))(batch)

    pieces = ProgramCache()
    exact, ours = kernel("jacobian", None), kernel("auto", pieces)
    assert pieces.compilations == compilations
    for name, value in exact.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-5)  # weights are float32


def evaluator_and_masks(space, texts):
    key, batch, scorer = jax.random.key(0), make_batch(), make_scorer("ntk_score", space)
    archs = np.stack([space.from_string(text) for text in texts])
    masks = architecture_to_mask(archs, max(space.choices))
    return Evaluator(Runner(space, scorer, Draws([key], [batch]))), masks


def test_links_are_compiled_once_and_shared():
    evaluator, masks = evaluator_and_masks(make(pad_widths=False), (SMALL, WIDER))
    first = evaluator.evaluate(masks[:1])
    small = evaluator.counts.compilations
    second = evaluator.evaluate(masks[1:])
    # New forward and backward: what gives or takes 24 channels, two layers, two shortcuts and a
    # sum; and the sum of the two cotangents of 24 channels.
    assert evaluator.counts.compilations == small + 2 * 5 + 1
    assert np.isfinite(first).all()
    assert (first != second).all()
    one = Evaluator(replace(evaluator.runner, programs=ProgramCache(), pieces=None))
    np.testing.assert_allclose(one.evaluate(masks[:1]), first, rtol=2e-3)
    assert one.counts.compilations == 1


def test_networks_of_other_widths_share_padded_links():
    texts = (SMALL, SAME_BUCKETS)
    padded, masks = evaluator_and_masks(make(), texts)
    exact, _ = evaluator_and_masks(make(pad_widths=False), texts)
    scores = padded.evaluate(masks[:1])
    small = padded.counts.compilations
    scores = np.concatenate([scores, padded.evaluate(masks[1:])])
    assert padded.counts.compilations == small + 1  # a draw of 4096, for a kernel of 2304
    np.testing.assert_allclose(scores, exact.evaluate(masks), rtol=2e-3)
    assert (scores[0] != scores[1]).all()


@pytest.mark.parametrize("shortcut", [True, False])
def test_the_chain_draws_the_parameters_of_the_network(shortcut):
    space = make(shortcut=shortcut)
    own = space.program(space.from_string(SMALL))
    drawn = own.init(jax.random.key(0))["params"]
    whole = jax.eval_shape(space.specialise(space.from_string(SMALL)).init, *key_and_image())
    shapes = lambda tree: jax.tree.map(lambda leaf: leaf.shape, tree)  # noqa: E731
    assert shapes(drawn) == shapes(whole["params"])
    pieces = own.networks.chain.draw(jax.random.key(0), SHAPE, jnp.float32, ProgramCache())
    for link, params in zip(own.networks.chain.links, pieces, strict=True):
        for path, leaf in flatten(params).items():
            same = functools.reduce(lambda tree, step: tree[step], link.path(path), drawn)
            np.testing.assert_array_equal(leaf, same)
    kernel = drawn["block_1_0"]["conv_1"]["conv"]["kernel"]
    assert abs(kernel.std() / np.sqrt(2 / (25 * 8)) - 1) < 0.1  # Kaiming, 1600 numbers


def key_and_image():
    return jax.random.key(0), jnp.zeros((1, *SHAPE))


def test_a_network_without_blocks_has_no_kernel_of_cells_and_is_flagged():
    """Link by link and as one program; where a function chooses nothing, that is an error."""
    text = "SuperConvK3BNRELU(3,8,1,1)SuperConvK1BNRELU(8,8,1,1)"
    evaluator, masks = evaluator_and_masks(make(), (text,))
    for one in (
        evaluator,
        Evaluator(replace(evaluator.runner, programs=ProgramCache(), pieces=None)),
    ):
        assert not np.isfinite(one.evaluate(masks)).any()
        assert one.counts.non_finite == 1
    own = evaluator.space.program(masks[0])
    options = NTKOptions(params=lambda path: False)
    for pieces in (ProgramCache(), None):
        with pytest.raises(NoParameterError):
            Kernels(own, options, pieces=pieces)(jax.random.key(0), None, make_batch())


def test_the_kernel_without_shortcuts_is_that_of_the_network():
    evaluator, masks = evaluator_and_masks(make(shortcut=False), (SMALL,))
    one = Evaluator(replace(evaluator.runner, programs=ProgramCache(), pieces=None)).evaluate(masks)
    np.testing.assert_allclose(evaluator.evaluate(masks), one, rtol=2e-3)


def test_without_a_supernet_and_without_a_program_it_says_so(space):
    with pytest.raises(ValueError, match="no supernet"):
        space.program(np.ones((len(space.choices), max(space.choices)), bool))
    with pytest.raises(ValueError, match="program for each architecture"):
        space.init(jax.random.key(0))
