"""What NTK options allow."""

import itertools

import pytest

from saboc_jax.ntk.options import BATCH_NORMS, ENGINES, OUTPUTS, NTKOptions, check_options
from saboc_jax.types import Passes

ALLOWED = {
    # (engine, batch norm): one backward pass and images over devices, chunks, backward passes
    ("auto", "frozen"): (True, True, "1 + 1"),
    ("auto", "batch"): (False, False, "1 + n"),
    ("one_backward", "frozen"): (True, True, "1 + 1"),
    ("jacobian", "frozen"): (False, False, "1 + n"),
    ("jacobian", "batch"): (False, False, "1 + n"),
    ("neural_tangents", "frozen"): (False, True, "1 + 1"),
    ("neural_tangents", "batch"): (False, False, "1 + n"),
    ("auto", "running"): (True, True, "1 + 1"),
    ("one_backward", "running"): (True, True, "1 + 1"),
    ("jacobian", "running"): (False, False, "1 + n"),
    ("neural_tangents", "running"): (False, True, "1 + 1"),
}


@pytest.mark.parametrize(("engine", "batch_norm"), list(itertools.product(ENGINES, BATCH_NORMS)))
def test_what_a_kernel_can_do(engine, batch_norm):
    options = NTKOptions(engine, batch_norm=batch_norm)
    if (engine, batch_norm) not in ALLOWED:
        with pytest.raises(ValueError, match="needs batch_norm='frozen'"):
            check_options(options)
        return
    one, chunks, passes = ALLOWED[engine, batch_norm]
    assert check_options(options) is options
    assert options.is_frozen == (batch_norm == "frozen")
    assert options.may_take_one_backward == options.shares_images == one
    assert options.runs_by_links == (one and batch_norm == "frozen")
    assert options.takes_chunks == chunks
    assert str(options.passes()) == passes


def test_a_chain_runs_by_links_only_for_the_sum_and_all_images_at_once():
    assert [NTKOptions(outputs=outputs).runs_by_links for outputs in OUTPUTS] == [
        True,
        False,
        False,
    ]
    assert not NTKOptions(chunk=8).runs_by_links
    assert NTKOptions(outputs="full", chunk=8).shares_images


def test_passes_add_up_over_batches():
    assert NTKOptions().passes(3) == Passes(3, 3)
    assert NTKOptions(batch_norm="batch").passes(3) == Passes(3, 0, 3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (NTKOptions("fast"), "engine='fast'; allowed"),
        (NTKOptions(outputs="mean"), "outputs='mean'"),
        (NTKOptions(batch_norm="moving"), "batch_norm='moving'"),
        (NTKOptions(implementation=3), "implementation=3"),
        (NTKOptions(chunk=0), "chunk=0; allowed: 1 or more, or None"),
        (NTKOptions(outputs_chunk=-1), "outputs_chunk=-1"),
    ],
)
def test_an_option_that_does_not_exist_is_named(options, said):
    with pytest.raises(ValueError, match=said):
        check_options(options)
