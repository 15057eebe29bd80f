"""Kernels written by tiles are the dense kernel, whatever interrupts the writing."""

import os
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_layers import layers, weights

import saboc_jax as sj
from saboc_jax.ntk import tiles
from saboc_jax.ntk.options import NTKOptions

N, K, TILE = 11, 3, 4  # tiles of 4, 4 and 3 examples: 6 on and below the diagonal


def case():
    keys = jax.random.split(jax.random.key(0), 3)
    params = weights(keys, 6, 5, K)
    return sj.from_function(layers, params), jax.random.normal(keys[2], (N, 6))


@pytest.mark.parametrize("outputs", ["sum", "trace", "full"])
def test_the_file_is_the_dense_kernel(x64, tmp_path, outputs):
    network, x = case()
    options = NTKOptions(outputs=outputs)
    kernel = np.asarray(sj.empirical_ntk(network, x, options=options))
    if outputs == "full":
        kernel = kernel.transpose(0, 2, 1, 3).reshape(N * K, N * K)
    found = sj.empirical_ntk_blocks(network, x, tmp_path / "k.npy", options, tile=TILE)
    assert isinstance(found, np.memmap) and not found.flags.writeable
    np.testing.assert_allclose(found, kernel, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_array_equal(np.load(tmp_path / "k.npy"), found)


@pytest.mark.parametrize("outputs", ["sum", "full"])
def test_an_operator_takes_products_from_the_file(x64, tmp_path, outputs):
    network, x = case()
    options = NTKOptions(outputs=outputs)
    kernel = sj.empirical_ntk_blocks(network, x, tmp_path / "k.npy", options, tile=TILE)
    operator = sj.ntk_operator(network, x, options, kernel=kernel)
    assert "k.npy" in repr(operator) and not operator.is_dense
    counted = []
    operator.on_product = counted.append
    block = np.random.default_rng(0).standard_normal((len(kernel), 2))
    np.testing.assert_allclose(operator @ block, kernel @ block, rtol=1e-12)
    assert counted == [2]
    np.testing.assert_allclose(operator.trace(), np.trace(kernel))
    np.testing.assert_array_equal(operator.dense(), kernel)
    np.testing.assert_array_equal(operator.block(2, [0])[:1, :1],
                                  kernel[2 * len(kernel) // N :][:1, :1])  # fmt: skip
    np.testing.assert_allclose(operator.cross_matmat(x[:2], block), (kernel @ block)[
        : 2 * len(kernel) // N], rtol=1e-9)  # fmt: skip
    np.testing.assert_allclose(jax.jit(operator.matmat)(block), kernel @ block, rtol=1e-12)
    with pytest.raises(ValueError, match=r"a kernel of shape \(3, 3\), float64; allowed"):
        sj.ntk_operator(network, x, options, kernel=np.zeros((3, 3)))


def test_finished_tiles_are_not_computed_again_and_progress_is_told(tmp_path, monkeypatch):
    network, x = case()
    told = []
    note = lambda *done: told.append(done)  # noqa: E731
    sj.empirical_ntk_blocks(network, x, tmp_path / "k.npy", tile=TILE, on_tile=note)
    assert told == [(done, 6) for done in range(7)]
    monkeypatch.setattr(tiles, "_write", lambda *_: pytest.fail("a finished tile"))
    sj.empirical_ntk_blocks(network, x, tmp_path / "k.npy", tile=TILE, on_tile=note)
    assert told[7:] == [(6, 6)]


def test_parts_fill_one_file(tmp_path):
    network, x = case()
    whole = sj.empirical_ntk_blocks(network, x, tmp_path / "w.npy", tile=TILE)
    path = tmp_path / "k.npy"
    first = sj.empirical_ntk_blocks(network, x, path, tile=TILE, part=(0, 2))
    assert not np.array_equal(first, whole)
    told = []
    sj.empirical_ntk_blocks(network, x, path, tile=TILE, part=(1, 2),
                            on_tile=lambda *done: told.append(done))  # fmt: skip
    assert told == [(done, 3) for done in range(4)]
    np.testing.assert_array_equal(first, whole)


KILLED = """
import os, signal, sys
import test_tiles
from saboc_jax.ntk import tiles
import saboc_jax as sj

left, at = int(sys.argv[2]), sys.argv[3]
plain = getattr(tiles, at)

def killed(*given):
    global left
    left -= 1
    if not left and at == "_mark":  # its numbers are written, its mark is not
        os.kill(os.getpid(), signal.SIGKILL)
    if not left:  # half of its numbers are written
        kernel = tiles.np.load(given[0], mmap_mode="r+")
        kernel[:6] = 7
        kernel.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    plain(*given)

setattr(tiles, at, killed)
network, x = test_tiles.case()
sj.empirical_ntk_blocks(network, x, sys.argv[1], tile=test_tiles.TILE)
"""


@pytest.mark.parametrize(("left", "at"), [(4, "_mark"), (1, "_write")])
def test_what_was_killed_goes_on_to_the_same_bits(tmp_path, left, at):
    path = tmp_path / "k.npy"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), str(left), at],
        cwd=os.path.dirname(__file__),
        env=dict(os.environ, PYTHONPATH=os.pathsep.join([os.getcwd(), os.path.dirname(__file__)])),
    )
    assert done.returncode == -signal.SIGKILL
    network, x = case()
    told = []
    found = sj.empirical_ntk_blocks(network, x, path, tile=TILE,
                                    on_tile=lambda *done: told.append(done))  # fmt: skip
    assert told[0] == (left - 1, 6)
    whole = sj.empirical_ntk_blocks(network, x, tmp_path / "w.npy", tile=TILE)
    np.testing.assert_array_equal(found, whole)


def test_a_mark_that_was_cut_does_not_count(tmp_path):
    network, x = case()
    path = tmp_path / "k.npy"
    whole = np.array(sj.empirical_ntk_blocks(network, x, path, tile=TILE))
    marks = tmp_path / "k.npy.tiles"
    marks.write_bytes(marks.read_bytes()[:-5])
    told = []
    sj.empirical_ntk_blocks(network, x, path, tile=TILE, on_tile=lambda *d: told.append(d))
    assert told == [(5, 6), (6, 6)]
    np.testing.assert_array_equal(np.load(path), whole)
    sj.empirical_ntk_blocks(network, x, path, tile=TILE, on_tile=lambda *d: told.append(d))
    assert told[2:] == [(6, 6)]


def test_a_lost_file_is_computed_anew(tmp_path):
    network, x = case()
    path = tmp_path / "k.npy"
    whole = np.array(sj.empirical_ntk_blocks(network, x, path, tile=TILE))
    path.unlink()
    np.testing.assert_array_equal(sj.empirical_ntk_blocks(network, x, path, tile=TILE), whole)


def changed(params, x):
    return jnp.sin(x @ params["first"]) @ params["last"]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda n, x: (n._replace(variables=jax.tree.map(lambda a: a + 1, n.variables)), x, {}),
         "weights: .* there, .* now"),
        (lambda n, x: (sj.from_function(changed, n.variables["params"]), x, {}), r"\(network: "),
        (lambda n, x: (n, x.at[3].add(1), {}), r"\(inputs: "),
        (lambda n, x: (n, x[:-1], {}), "size: 11 there, 10 now"),
        (lambda n, x: (n, x, {"tile": 5}), r"\(tile: 4 there, 5 now\)"),
        (lambda n, x: (n, x, {"options": NTKOptions(outputs="trace")}),
         "outputs: sum there, trace now"),
        (lambda n, x: (n, x, {"options": NTKOptions(params=lambda p: p[-1] == "last")}),
         "params: weights there, "),
    ],
)  # fmt: skip
def test_another_kernel_under_a_path_is_refused(tmp_path, other, said):
    network, x = case()
    path = tmp_path / "k.npy"
    before = np.array(sj.empirical_ntk_blocks(network, x, path, tile=TILE))
    network, x, more = other(network, x)
    with pytest.raises(ValueError, match=f"k.npy holds another kernel .*{said}") as caught:
        sj.empirical_ntk_blocks(network, x, path, **{"tile": TILE} | more)
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(np.load(path), before)


def test_bad_arguments_are_one_sentence(tmp_path):
    network, x = case()
    np.save(tmp_path / "foreign.npy", np.ones(3))
    for path, more, said in (
        ("k.zarr", {}, "allowed: a name that ends with .npy"),
        ("foreign.npy", {}, "is not a kernel of ours"),
        ("k.npy", {"tile": 0}, "tile=0; allowed"),
        ("k.npy", {"part": (2, 2)}, r"part=\(2, 2\); allowed"),
        ("k.npy", {"options": NTKOptions(batch_norm="batch")}, "batch_norm='batch'"),
    ):
        with pytest.raises(ValueError, match=said):
            sj.empirical_ntk_blocks(network, x, tmp_path / path, **more)
    assert np.load(tmp_path / "foreign.npy").tolist() == [1, 1, 1]
