"""Feeding workers: every job once and in any order, whatever is lost; then the same on Ray."""

import os
import random
import signal
import sys
from collections import Counter
from typing import NamedTuple

import cloudpickle
import jax
import numpy as np
import pytest

from saboc_jax import data
from saboc_jax.evaluation.backoff import Chunk
from saboc_jax.evaluation.counts import Counts
from saboc_jax.evaluation.evaluator import Evaluator, StoppedError
from saboc_jax.evaluation.farm import Farm, Message, WorkerLostError
from saboc_jax.evaluation.jobs import Answer, Draws, Job
from saboc_jax.evaluation.ray import RayExecutor, Worker
from saboc_jax.evaluation.runner import Runner
from saboc_jax.evaluation.sharing import share_out
from saboc_jax.evaluation.store import Store
from saboc_jax.layers.programs import ProgramCache
from saboc_jax.scorers import make_scorer
from saboc_jax.scorers.combine import combine
from saboc_jax.searchers import SEARCHERS
from saboc_jax.searching.run import run_search
from saboc_jax.spaces import make_space
from saboc_jax.spaces.masks import architecture_to_mask, sample_architectures


class Plain(NamedTuple):
    name: int


class FakePool:
    """Workers in this process, in a random but fixed order; `dies(life, jobs)` ends one."""

    def __init__(self, size=3, dies=lambda life, jobs: False, compute=None, seed=0, takes=1):
        self.size, self.dies, self.takes = size, dies, takes
        self.compute = compute or (lambda worker, message: Answer([], [9.0], Counts()))
        self.rng = random.Random(seed)
        self.lives, self.queues, self.answers = Counter(), {}, {}
        self.done, self.deepest = Counter(), 0

    def _ticket(self, worker, message):
        ticket = (worker, self.lives[worker], len(self.answers))
        self.answers[ticket] = None
        self.queues[worker].append((ticket, message))
        return ticket

    def start(self, worker):
        self.lives[worker] += 1
        self.queues[worker] = []
        return self._ticket(worker, None)

    def send(self, worker, message):
        ticket = self._ticket(worker, message)
        self.deepest = max(self.deepest, len(self.queues[worker]))
        return ticket

    def wait(self, tickets, timeout):
        while not (known := [ticket for ticket in tickets if self.answers[ticket] is not None]):
            if not (busy := [worker for worker, queue in self.queues.items() if queue]):
                return None
            self._work(self.rng.choice(busy))
        return known[0]

    def _work(self, worker):
        (ticket, message), *rest = self.queues[worker]
        jobs = message.jobs if message else ()
        if self.dies(self.lives[worker], jobs):
            for lost, _ in self.queues[worker]:
                self.answers[lost] = WorkerLostError("killed")
            rest = []
        else:
            self.done.update(job.name for job in jobs)
            self.answers[ticket] = self.compute(worker, message) if message else self.takes
        self.queues[worker] = rest

    def answer(self, ticket):
        if isinstance(self.answers[ticket], WorkerLostError):
            raise self.answers[ticket]
        return self.answers[ticket]


JOBS = [Plain(number) for number in range(40)]


@pytest.mark.parametrize("seed", range(8))
def test_every_job_is_done_once_whoever_is_killed(seed):
    rng = random.Random(seed)
    killed = []

    def dies(life, jobs):
        killed.append(bool(jobs) and rng.random() < 0.3)
        return killed[-1]

    pool = FakePool(seed=seed, dies=dies, takes=1 + seed % 3)
    farm = Farm(pool, retries=40)
    for batch in (JOBS[:25], JOBS[25:]):  # the same workers, warm
        given = [job for jobs, _ in farm.run(("part",), batch) for job in jobs]
        assert sorted(given) == batch
    assert pool.done == Counter(job.name for job in JOBS)
    assert farm.restarts == sum(killed) > 0
    assert pool.lives.total() == 3 + sum(killed)
    assert pool.deepest == 2


def test_quick_jobs_are_sent_together_and_shared_fairly():
    sizes = []

    def compute(worker, message):
        sizes.append(len(message.jobs))
        return Answer([], [0.02] * len(message.jobs), Counts())

    list(Farm(FakePool(2, compute=compute)).run((), [Plain(number) for number in range(100)]))
    assert sum(sizes) == 100
    assert sizes[0] == 1  # nobody knows yet
    assert max(sizes) == 10  # 0.2 s of work
    assert len(sizes) > 12  # fewer at the end, for both


def test_only_the_job_that_kills_is_given_up():
    pool = FakePool(dies=lambda life, jobs: Plain(7) in jobs, takes=4)
    with pytest.raises(RuntimeError, match="scored 7, 4 times: killed"):
        list(Farm(pool).run((), JOBS))
    assert pool.lives.total() == 3 + 4


def test_workers_that_never_start_end_the_run():
    with pytest.raises(RuntimeError, match="lost at its start, 4 times"):
        list(Farm(FakePool(1, dies=lambda life, jobs: True)).run((), JOBS))
    pool = FakePool(2)
    farm = Farm(pool, start_timeout=5.0)
    pool.queues = {0: [], 1: []}  # a cluster without room
    with pytest.raises(TimeoutError, match="none of 2 workers was ready after 5 s"):
        list(farm.run((), JOBS))
    with pytest.raises(ValueError, match="in_flight=0"):
        Farm(FakePool(), in_flight=0)


def test_a_stopped_run_gives_what_is_under_way_and_the_next_starts_afresh():
    pool = FakePool(2)
    farm = Farm(pool)
    given = []
    for jobs, _ in farm.run((), JOBS):
        given.extend(jobs)
        farm.stop()
    assert 1 <= len(given) <= 4
    assert pool.done == Counter(job.name for job in given)
    assert [job for jobs, _ in farm.run((), JOBS[:1]) for job in jobs] == JOBS[:1]


# --- the evaluator's jobs -----------------------------------------------------------------------


class InProcess:
    """An executor of workers in this process that get everything as bytes."""

    def __init__(self, **options):
        self.options, self.farm = options, None

    def run(self, runner, missing, jobs):
        if self.farm is None:
            sent = cloudpickle.dumps(runner)
            workers = [Worker(), Worker()]
            for worker in workers:
                worker.load(cloudpickle.loads(sent))

            def compute(worker, message):
                message = cloudpickle.loads(cloudpickle.dumps(message))
                return cloudpickle.loads(cloudpickle.dumps(workers[worker].compute(message)))

            self.pool = FakePool(2, compute=compute, **self.options)
            self.farm = Farm(self.pool)
        return self.farm.run(missing, jobs)

    def stop(self):
        self.farm.stop()

    def close(self):
        pass


def cheap(store=None, executor=None, names=("random", "params"), **settings):
    space = make_space("nas_bench_201", channels=2, num_cells=1)
    scorer = combine([make_scorer(name, space) for name in names])
    digits = data.load("digits")
    keys = [jax.random.key(repeat) for repeat in range(2)]
    batches = [data.draw(digits, key, 6, needs=scorer.needs) for key in keys]
    return Evaluator(Runner(space, scorer, Draws(keys, batches), **settings), store, executor)


def some_masks(space, number):
    archs = sample_architectures(jax.random.key(3), space.choices, number)
    return architecture_to_mask(np.concatenate([archs, archs[:2], 0 * archs[:1]]), 5)


def test_an_evaluator_gets_the_same_from_workers(tmp_path):
    local = cheap()
    masks = some_masks(local.space, 9)
    expected = local.evaluate(masks)
    with Store(tmp_path / "s.sqlite") as store:
        cheap(store, names=("params",)).evaluate(masks[:4])  # one part of some is there
        told = []
        far = cheap(store, InProcess(dies=lambda life, jobs: life == 1 and len(jobs) > 0))
        far.on_score = lambda: told.append(0)
        np.testing.assert_array_equal(far.evaluate(masks), expected)
        assert len(told) == masks.shape[0] * 2
        for name in ("scored", "served", "disconnected", "non_finite"):
            assert getattr(far.counts, name) == getattr(local.counts, name), name
        assert far.executor.pool.done.total() == far.counts.scored
        assert far.executor.farm.restarts == 2
        rows = {(*row.request, str(row.metrics)) for row in store.select()}
    with Store(tmp_path / "alone.sqlite") as alone:
        cheap(alone).evaluate(masks)
        assert rows == {(*row.request, str(row.metrics)) for row in alone.select()}
    np.testing.assert_array_equal(far.evaluate(masks), expected)
    assert far.executor.pool.done.total() == far.counts.scored


def test_what_is_under_way_when_time_is_up_is_kept_and_not_scored_again(tmp_path):
    space = cheap().space  # what costs nothing is told of at once: left out here
    masks = np.unique(some_masks(space, 9), axis=0)
    masks = np.stack([mask for mask in masks if space.is_connected(mask)])

    with Store(tmp_path / "s.sqlite") as store:
        first, second = cheap(store, InProcess()), cheap(store, InProcess())
        first.stop = lambda: first.counts.scored > 0
        with pytest.raises(StoppedError):
            first.evaluate(masks)
        begun = first.executor.pool.done
        assert len(store) == 2 * begun.total() > 0
        second.evaluate(masks)
        assert not begun & second.executor.pool.done


def test_a_runner_is_sent_with_all_that_it_was_made_of_and_nothing_compiled():
    """Field by field it was not: `chunk` was forgotten, so workers began as if memory sufficed."""
    local = cheap(chunk=Chunk(3, images=4), devices=1, programs=ProgramCache(7))
    expected = local.evaluate(some_masks(local.space, 3))
    there = cloudpickle.loads(cloudpickle.dumps(local.runner))
    assert there.chunk == Chunk(3, images=4)
    assert there.at_once == local.runner.at_once == 3
    assert (there.devices, there.shard, there.draws.names) == (1, "architectures", ("0", "1"))
    assert local.runner.programs.compilations > there.programs.compilations == 0
    assert there.programs.maximum == 7
    assert {type(leaf) for leaf in jax.tree.leaves(there.draws.batches)} == {np.ndarray}
    np.testing.assert_array_equal(Evaluator(there).evaluate(some_masks(local.space, 3)), expected)
    one_program = cheap(pieces=None).runner
    assert cloudpickle.loads(cloudpickle.dumps(one_program)).pieces is None


def test_a_worker_whose_memory_does_not_suffice_answers_for_every_job(monkeypatch):
    asked = []

    def limited(jobs, devices, places):
        asked.append(places)
        if places > 2:
            raise MemoryError
        return share_out(jobs, devices, places)

    monkeypatch.setattr("saboc_jax.evaluation.runner.share_out", limited)
    made, worker = cheap(chunk=Chunk(4), devices=1, names=("random",)), Worker()
    masks = some_masks(made.space, 7)[:7]
    jobs = tuple(Job(mask, (str(place), 0), {}) for place, mask in enumerate(masks))
    assert worker.load(made.runner)["takes"] == 4
    answer = worker.compute(Message(("random",), jobs))
    assert asked == [4, 2, 2, 2, 2]
    assert len(answer.rows) == len(answer.seconds) == answer.counts.scored == 7
    assert answer.counts.device_jobs == []


def test_spaces_with_a_program_for_each_architecture_can_be_sent():
    space = make_space("resnet")
    there = cloudpickle.loads(cloudpickle.dumps(space))
    arch = sample_architectures(jax.random.key(0), space.choices, 1)[0]
    mask = architecture_to_mask(arch, max(space.choices))
    links = [link[:2] for link in there.program(mask).networks.chain.links]
    assert links == [link[:2] for link in space.program(mask).networks.chain.links]
    assert there.networks.program(mask) is there.networks.program(mask)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'saboc_jax\[ray\]'"):
        RayExecutor()
    with pytest.raises(ValueError, match="num_workers=0"):
        RayExecutor(0)


# --- Ray ----------------------------------------------------------------------------------------


def prune(evaluator):
    space, scorer = evaluator.space, evaluator.scorer
    searcher = SEARCHERS["pruning"](
        space.choices,
        scorer.higher_is_better,
        initially_pruned=("none", "avg_pool_3x3", "nor_conv_1x1"),
        option_names=space.option_names,
    )
    return run_search(searcher, evaluator, jax.random.key(3))


# Ray starts its daemons by a fork that at once becomes another program: JAX warns of any fork.
@pytest.mark.filterwarnings(r"ignore:os.fork\(\) was called:RuntimeWarning")
def test_a_search_on_ray_survives_a_killed_worker_to_the_bit(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'saboc_jax[ray]'")
    local = cheap(names=("ntk_score",))
    expected = prune(local)
    killed = []
    with Store(tmp_path / "s.sqlite") as store, RayExecutor(num_workers=2) as executor:
        far = cheap(store, executor, names=("ntk_score",))

        def kill():
            if far.counts.scored >= 2 and not killed:
                killed.append(next(iter(executor.pids.values())))
                os.kill(killed[0], signal.SIGKILL)

        far.on_score = kill
        found = prune(far)
        assert executor.restarts == 1
        assert killed[0] not in executor.pids.values()
        assert far.counts.scored == local.counts.scored
        assert len(store) == local.counts.scored + local.counts.disconnected
    np.testing.assert_array_equal(found.arch, expected.arch)
    for (_, ours), (_, theirs) in zip(found.history, expected.history, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(found.scores, expected.scores)


@pytest.mark.filterwarnings(r"ignore:os.fork\(\) was called:RuntimeWarning")
def test_a_worker_on_ray_computes_as_much_at_once_as_the_runner_says():
    pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]' in the clone")
    with RayExecutor(num_workers=1) as executor:
        far = cheap(executor=executor, chunk=Chunk(3), devices=1)
        far.evaluate(some_masks(far.space, 4))
        assert executor.warm(far.runner)._takes == {0: 3}
