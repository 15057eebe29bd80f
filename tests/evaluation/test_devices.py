"""Several devices, and little memory: the same scores, the work shared out evenly."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest

import saboc_jax.evaluation.runner
from saboc_jax import data, devices
from saboc_jax.devices import find_devices
from saboc_jax.evaluation.backoff import Chunk, is_out_of_memory
from saboc_jax.evaluation.evaluator import Evaluator
from saboc_jax.evaluation.jobs import Draws
from saboc_jax.evaluation.runner import Runner
from saboc_jax.evaluation.sharing import places_for, share_out
from saboc_jax.layers.programs import ProgramCache
from saboc_jax.scorers.variants import make_scorers
from saboc_jax.spaces import make_space
from saboc_jax.spaces.dtype import in_dtype
from saboc_jax.spaces.masks import architecture_to_mask

CELLS = [[3, 3, 2, 1, 4, 3], [2, 2, 3, 0, 1, 2], [3, 1, 1, 3, 0, 4]]


def evaluator(scorers="ntk_score", dtype="float32", **settings):
    space = in_dtype(make_space("nas_bench_201", channels=2, num_cells=1), dtype)
    scorer = make_scorers(scorers, space)
    key = jax.random.key(2)  # of networks whose kernels float32 resolves
    batch = data.draw(data.load("digits"), key, 5, needs=scorer.needs)
    return Evaluator(Runner(space, scorer, Draws([key], [batch]), **settings))


def masks(archs=CELLS):
    return architecture_to_mask(np.array(archs), 5)


@pytest.fixture(scope="module")
def one():
    """An evaluator on one device, and what it gives."""
    made = evaluator(devices=1)
    return made, made.evaluate(masks())


def again(made, chunk):
    """The same with nothing in memory but the compiled programs."""
    return Evaluator(replace(made.runner, chunk=chunk))


@pytest.mark.parametrize(
    ("jobs", "devices", "places"), [(1, 8, 4), (7, 4, 2), (8, 8, 1), (31, 8, 4)]
)
def test_every_job_has_one_place_and_devices_have_equally_many(jobs, devices, places):
    table = share_out(jobs, devices, places)
    assert table.shape == (devices, places)
    assert sorted(table[table >= 0]) == list(range(jobs))
    on_each = (table >= 0).sum(1)
    assert on_each.max() - on_each.min() <= 1


def test_a_chunk_that_does_not_fit_is_halved_and_the_scores_are_the_same_to_rounding(
    one, monkeypatch, caplog
):
    made, expected = one
    asked = []

    def limited(jobs, devices, places):
        asked.append(places)
        if places > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")
        return share_out(jobs, devices, places)

    monkeypatch.setattr(saboc_jax.evaluation.runner, "share_out", limited)
    small = again(made, Chunk(8))
    np.testing.assert_allclose(small.evaluate(masks()), expected, rtol=1e-4)
    assert asked == [8, 4, 2, 2]  # what did not fit is not tried again
    assert small.counts.shrunk == "2 at a time on a device"
    assert small.counts.device_jobs == [3]
    assert len(caplog.records) == 1
    assert "Out of memory" in caplog.text


def test_one_network_that_does_not_fit_takes_fewer_images_in_a_pass(one, monkeypatch):
    made, expected = one
    observe = saboc_jax.evaluation.runner.observe

    def limited(scorer, key, gates, batch):
        passes = scorer.observables["0.kernels"].options.chunk
        if passes is None or passes > 2:
            raise MemoryError
        return observe(scorer, key, gates, batch)

    monkeypatch.setattr(saboc_jax.evaluation.runner, "observe", limited)
    small = again(made, Chunk(1))
    small.runner.programs = ProgramCache()
    np.testing.assert_allclose(small.evaluate(masks()), expected, rtol=1e-4)
    assert small.counts.shrunk == "1 at a time on a device, 2 images in a pass"
    assert small.counts.compilations == 1


def test_what_cannot_be_halved_and_what_is_another_error_is_raised(one, monkeypatch):
    def fail(*_):
        raise error

    made, _ = one
    monkeypatch.setattr(Runner, "_observe_one", fail)
    for error, images in ((MemoryError("full"), 1), (RuntimeError("INTERNAL"), None)):
        small = again(made, Chunk(1, images))
        with pytest.raises(type(error)):
            small.evaluate(masks())
        assert not small.counts.shrunk
    assert is_out_of_memory(MemoryError()) and not is_out_of_memory(ValueError("out of memory"))
    with pytest.raises(ValueError, match=r"jobs=0 of a chunk; allowed: 1 or more"):
        Chunk(0)


ON_SEVERAL = """
import json, sys
import numpy as np
sys.path.insert(0, "tests/evaluation")
from test_devices import evaluator, masks
archs = json.loads(sys.argv[1])
for number in map(int, sys.argv[2:]):
    made = evaluator(devices=number)
    scores = made.evaluate(masks(archs))
    counts = made.counts
    print(json.dumps([scores.tolist(), counts.device_jobs, counts.compilations, counts.scored]))
"""


def test_devices_share_the_work_evenly_and_give_the_scores_of_one(one):
    made, _ = one
    archs = [[choice, *CELLS[i % 3][1:]] for i, choice in enumerate([0, 1, 2, 3, 4, 1, 2])]
    archs = [arch for arch in archs if made.space.is_connected(masks([arch])[0])]
    assert len({tuple(arch) for arch in archs}) == len(archs) and len(archs) % 2
    # The compiler's other flags are this process's, or rounding differs by more.
    flags = [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]
    environment = dict(
        os.environ, JAX_PLATFORMS="cpu", PYTHONPATH=os.getcwd(), XLA_FLAGS=" ".join(flags)
    )
    command = [sys.executable, "-c", ON_SEVERAL, json.dumps(archs), "4", "8"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    expected = again(made, Chunk(1)).evaluate(masks(archs))
    for line, number in zip(done.stdout.splitlines(), (4, 8), strict=True):
        scores, on_each, compilations, scored = json.loads(line)
        np.testing.assert_allclose(scores, expected, rtol=1e-4)
        assert len(on_each) == number and sum(on_each) == scored == len(archs)
        assert max(on_each) - min(on_each) <= 1
        assert compilations == 1


def test_devices_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match=r"99 devices; allowed: 1 to"):
        find_devices(99)


OPEN = """
import jax
from saboc_jax import devices
devices.open_cores(3)
print(jax.device_count())
devices.open_cores(2)  # too late, and no error
print(jax.device_count())
"""


@pytest.mark.skipif(not hasattr(jax.config, "jax_num_cpu_devices"), reason="before jax 0.5")
@pytest.mark.parametrize(
    ("chosen", "count"),
    [
        ({}, 3),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}, 4),
        ({"JAX_NUM_CPU_DEVICES": "2"}, 2),
    ],
)
def test_a_cpu_has_a_device_of_every_core_unless_somebody_said_how_many(chosen, count):
    env = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    done = subprocess.run(
        [sys.executable, "-c", OPEN],
        env=env | {"JAX_PLATFORMS": "cpu"} | chosen,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == [str(count)] * 2, done.stderr


@pytest.mark.parametrize(("quota", "count"), [("max 100000", 64), ("150000 100000", 2), ("", 64)])
def test_a_containers_quota_counts(quota, count, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    if quota:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    assert devices.cores() == count


@pytest.mark.parametrize(
    ("jobs", "devices", "most", "places"),
    [(1, 1, 64, 1), (5, 1, 64, 8), (9, 2, 4, 4), (3, 2, 64, 2)],
)
def test_jobs_that_run_together_take_few_sizes_of_programs(jobs, devices, most, places):
    assert places_for(jobs, devices, most) == places


@pytest.mark.parametrize("scorers", ["ntk_score", "naswot+zico"])
def test_jobs_that_run_together_have_the_scores_of_jobs_one_after_another(scorers):
    """As on GPUs and TPUs: under one vmap, with places without a job at the end."""
    loop = evaluator(scorers, "float64", devices=1)
    together = evaluator(scorers, "float64", devices=1, together=True)
    supernet = np.ones((1, 6, 5), bool)
    chosen = np.concatenate([masks(), supernet, masks([[0, 0, 0, 3, 0, 0]])])
    # The images are float32, and their sums are taken in another order.
    np.testing.assert_allclose(together.evaluate(chosen), loop.evaluate(chosen), rtol=2e-6)
    assert together.runner.at_once == saboc_jax.evaluation.runner.TOGETHER
    assert together.counts.compilations == 1


def test_jobs_that_run_together_are_halved_before_memory_runs_out(monkeypatch, caplog):
    sizes = []

    def needed(compiled):
        sizes.append(jax.tree.leaves(compiled.in_avals)[0].shape[0])
        return sizes[-1]

    monkeypatch.setattr("saboc_jax.ntk.memory.needed_bytes", needed)
    monkeypatch.setattr("saboc_jax.ntk.memory.memory_limit", lambda device: 2)
    made = evaluator("naswot", devices=1, together=True, chunk=Chunk(4))
    made.evaluate(masks())
    assert sizes == [4, 2, 1]
    assert made.counts.shrunk == "2 at a time on a device"
    assert "allowed: 2" in caplog.text
