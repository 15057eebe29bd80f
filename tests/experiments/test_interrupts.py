"""Ctrl-C and SIGTERM end a program soon, with one line and no traceback, wherever they come."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
START = """
import os, sys, time
from experiments import interrupts
interrupts.GRACE = 1.0
interrupts.watch()
print("ready", flush=True)
"""
PLACES = {
    "nobody catches it": "time.sleep(60)",
    "a library swallows it": """
while True:
    try:
        time.sleep(60)
    except BaseException:
        pass
""",
    "no Python runs": "import ctypes; ctypes.PyDLL(None).sleep(60)",
    "while importing": "sys.path.insert(0, sys.argv[1]); import slow",
}


def ended(arguments, number, ready, cwd=ROOT):
    """Starts a program, sends a signal when it is ready; its exit code, errors and seconds."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    with (
        not_ignored(signal.SIGINT),
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process,
    ):  # fmt: skip
        try:
            ready(process)
            start = time.monotonic()
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
            return process.returncode, said, time.monotonic() - start
        finally:
            process.kill()  # else a program that does not end is waited for without end


@contextmanager
def not_ignored(number):
    """A program inherits that a signal is ignored, as it is where tests run in the background."""
    before = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("place", PLACES)
def test_a_signal_is_never_lost_and_is_one_line(place, number, tmp_path):
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(60)\n")
    code, said, seconds = ended(
        ["-c", START + PLACES[place], str(tmp_path)], number, lambda p: p.stdout.readline()
    )
    assert code == 128 + number
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert said == f"{word}: what is in the store or workdir is served to the same command\n"
    assert seconds < 20


def test_a_child_that_is_ended_does_not_end_its_parent():
    child = """
pid = os.fork()
if not pid:
    time.sleep(60)
    os._exit(0)
time.sleep(0.5)
os.kill(pid, 15)
assert os.waitpid(pid, 0)[1] == 15
time.sleep(1.5)
print("lives", flush=True)
time.sleep(60)
"""

    def ready(process):
        assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "lives\n"]

    assert ended(["-c", START + child], signal.SIGINT, ready)[0] == 130


def test_a_binary_is_interrupted_while_it_imports(tmp_path):
    code, said, _ = ended(
        ["-m", "experiments.search", f"--workdir={tmp_path}"],
        signal.SIGINT,
        lambda process: time.sleep(1.0),
    )
    assert code in (130, -signal.SIGINT)
    assert "Traceback" not in said
