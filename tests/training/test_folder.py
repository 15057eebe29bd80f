"""The folder of a training: one writer, lines that are its epochs, and what others left in it."""

import json
import os
import random
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from test_train import blobs, counting_trainer

from saboc_jax.training import checkpoints
from saboc_jax.training.folder import alone
from saboc_jax.training.run import METRICS, read_lines, run

HOLD = """
import sys, time
from pathlib import Path
from saboc_jax.training.folder import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_training_is_refused_at_once(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="is being written by another training"):
            run(counting_trainer(), blobs(), 1, tmp_path)
        assert os.listdir(tmp_path) == []
        other.kill()  # the lock dies with its process
    with alone(tmp_path):
        pass
    assert len(run(counting_trainer(), blobs(), 1, tmp_path)[1]) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"epoch": 2}\n', "line 1: the content is .*; allowed: an object with 'train_loss'"),
        ("[]\n", r"line 1: the content is \[\]; allowed: an object"),
        ("x\n{}\n", "line 1 is damaged"),
        ("{LINE}\n{LINE}\n", r"line 2 is of epoch 1; allowed: 2"),
        ('{"epoch": 1, "more": "a"}\n', "more is 'a'; allowed: a number"),
    ],
)
def test_lines_that_are_not_those_of_the_epochs_are_named(tmp_path, text, message):
    names = ("train_loss", "test_loss", "test_top1", "test_top5", "seconds")
    line = json.dumps({"epoch": 1} | dict.fromkeys(names, 1.0))
    path = tmp_path / METRICS
    path.write_text(text.replace("{LINE}", line))
    with pytest.raises(ValueError, match=message):
        read_lines(path)
    path.write_text(line + "\n" + line[:20])  # a kill cut the second
    assert len(read_lines(path)) == 1


def test_a_full_disk_is_one_sentence_and_keeps_what_was_there(tmp_path, monkeypatch, capfd):
    run(counting_trainer(), blobs(), 1, tmp_path)
    with monkeypatch.context() as patched:
        full = SimpleNamespace(disk_usage=lambda path: SimpleNamespace(free=10))
        patched.setattr(checkpoints, "shutil", full)
        with pytest.raises(ValueError, match="checkpoints/2 cannot be written: the disk is full"):
            run(counting_trainer(), blobs(), 2, tmp_path)
    assert "Traceback" not in capfd.readouterr().err
    state, lines = run(counting_trainer(), blobs(), 2, tmp_path)
    assert int(state.step) == len(lines) == 2


# TensorStore's threads call back into a loop that Orbax has closed after an error.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("seed", range(2))
def test_a_damaged_checkpoint_is_continued_to_the_same_numbers_or_named(tmp_path, seed):
    """Fuzz: bytes of checkpoints are changed, cut off or removed."""
    rng, whole = random.Random(seed), tmp_path / "whole"
    whole.mkdir()
    run(counting_trainer(), blobs(), 2, whole)
    outcomes = []
    for number in range(12):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        path = rng.choice(sorted(p for p in folder.rglob("*") if p.is_file() and p.name != METRICS))
        content = bytearray(path.read_bytes())
        how = rng.randrange(3)
        if how == 0 and content:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        elif how == 1:
            del content[rng.randrange(len(content) + 1) :]
        path.unlink()
        if how < 2:
            path.write_bytes(content)
        try:
            state, lines = run(counting_trainer(), blobs(), 3, folder)
            assert int(state.step) == len(lines) == 3
            np.testing.assert_array_equal(state.params["w"], 0)
            outcomes.append("continued")
        except ValueError as error:
            assert str(folder) in str(error) and "\n" not in str(error)
            outcomes.append("named")
    # Which files are hit depends on names that Orbax draws, so either outcome may be missing.
    assert len(outcomes) == 12
