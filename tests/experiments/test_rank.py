"""`saboc rank`: networks by name from a folder of one's own, resumable, refused ones last."""

import json
import os
import subprocess
import sys

NETS = """
from flax import linen as nn


class Net(nn.Module):
    num_classes: int
    width: int = 4

    @nn.compact
    def __call__(self, images):
        x = nn.relu(nn.Conv(self.width, (3, 3), strides=4)(images))
        return nn.Dense(self.num_classes)(x.mean((1, 2)))


def large(num_classes):
    return Net(num_classes, 16)


class Broken(nn.Module):
    @nn.compact
    def __call__(self, images):
        raise RuntimeError("not for images")
"""


def run(folder, *words):
    flags = ["--dataset=digits", "--image_size=8", "--batch_size=8", "--repeats=1"]
    return subprocess.run(
        [sys.executable, "-m", "experiments.rank", *words, *flags],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_names_from_this_folder(tmp_path):
    (tmp_path / "my_nets.py").write_text(NETS)
    names = ["my_nets:Broken", "my_nets:Net", "my_nets:large"]
    words = [*names, "--scorers=params", "--out=out"]
    first, second = run(tmp_path, *words), run(tmp_path, *words)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "my_nets:Broken: refused: " in first.stdout
    assert "not for images" in first.stdout
    assert "2 scores computed, 0 from the store, 1 refused" in first.stdout
    assert "0 scores computed, 2 from the store, 1 refused" in second.stdout
    rows = json.loads((tmp_path / "out/scores.json").read_text())["rows"]
    assert [row["candidate"] for row in rows] == names[::-1]
    assert [row["bad"] for row in rows] == ["", "", "refused"]
    assert (tmp_path / "out/report.html").exists()
    strict = run(tmp_path, *words, "--strict")
    assert strict.returncode == 1
    assert "not for images" in strict.stderr
    within = run(tmp_path, *names, "--scorers=params", "--max_params=0.2k")
    assert "2 of 3 networks have at most 200 parameters" in within.stdout
    for wrong, said in (([], "no names are given"), (["resnet18"], "allowed: timm:MODEL")):
        done = run(tmp_path, *wrong)
        assert done.returncode == 1
        assert said in done.stderr
