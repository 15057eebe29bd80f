"""The parts of a space: two kinds of networks, and what stays readable on the space itself."""

import cloudpickle
import jax
import numpy as np
import pytest
from flax import linen as nn

import saboc_jax as sj
from saboc_jax.spaces import OWN_SPACES
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.spaces.modules.space import module_space
from saboc_jax.types import Decisions, Networks, OneProgram, ProgramEach


class Net(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(3)(images.mean((1, 2)))


@pytest.fixture(scope="module", params=[*OWN_SPACES, "module"])
def space(request):
    if request.param == "module":
        return module_space([Net(), Net()], image_shape=(8, 8, 3))
    return sj.make_space(request.param, num_classes=3, image_shape=(8, 8, 3))


def test_the_kind_of_a_space_is_in_its_type(space):
    gated = ("darts", "darts_genotypes", "nas_bench_201", "nas_bench_macro", "transnas_micro")
    expected = OneProgram if space.name in gated else ProgramEach
    assert type(space.networks) is expected
    if expected is OneProgram:
        assert space.program(np.zeros(len(space.choices), int)) is space
        assert space.init is space.networks.init and space.apply is space.one_program.apply
        return
    assert not hasattr(ProgramEach, "init") and not hasattr(ProgramEach, "apply")
    for name in ("init", "apply", "one_program"):
        with pytest.raises(ValueError, match=rf"'{space.name}' has a program.*space\.program"):
            getattr(space, name)


def test_masks_that_share_a_program_get_equal_spaces(space):
    arch = np.zeros(len(space.choices), int)
    mask = architecture_to_mask(arch, max(space.choices))
    one, two = space.program(arch), space.program(mask)
    assert one == two and hash(one) == hash(two)
    assert isinstance(one.networks, OneProgram) and one.program(mask) is one
    typed = sj.in_dtype(space, "bfloat16").program(arch)
    assert typed == sj.in_dtype(space, "bfloat16").program(mask)
    assert typed.dtype == "bfloat16" and one.dtype == "float32"
    shapes = jax.eval_shape(typed.init, jax.random.key(0))["params"]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(shapes)} == {"bfloat16"}


def test_what_users_read_is_on_the_space(space):
    for part in (Decisions, Networks):
        fields = getattr(part, "_fields", None) or part.__dataclass_fields__
        owner = space.decisions if part is Decisions else space.networks
        for name in set(fields) - {"call", "example"}:
            assert getattr(space, name) is getattr(owner, name), name
    assert space.cost is space.costs.of


def test_a_space_can_be_sent(space):
    there = cloudpickle.loads(cloudpickle.dumps(space))
    arch = space.decisions.from_string(space.to_string(np.zeros(len(space.choices), int)))
    assert there.to_string(arch) == space.to_string(arch)
    assert there.cost(arch) == space.cost(arch)
    ours, theirs = (
        jax.eval_shape(each.program(arch).init, jax.random.key(0)) for each in (space, there)
    )
    assert jax.tree.map(lambda a: a.shape, ours) == jax.tree.map(lambda a: a.shape, theirs)
