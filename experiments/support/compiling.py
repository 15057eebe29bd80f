"""Compiled programs are kept between runs, and what XLA says while it compiles is put plainly."""

import os
import subprocess
import sys
from pathlib import Path

import jax
from absl import flags

COMPILATION_CACHE = flags.DEFINE_bool(
    "compilation_cache",
    True,
    "Compiled programs are kept in the user's cache ($XDG_CACHE_HOME or ~/.cache), so that another "
    "run compiles in seconds; $JAX_COMPILATION_CACHE_DIR names another folder.",
)
WORTH_KEEPING = 0.5  # seconds of compilation
# The words of XLA, and ours. It prints its own past Python, to the process's error output.
FILTER = r"""
import re, sys
SAID = {
    "onstant folding": "XLA computes constants while it compiles; this takes a while.",
    "low compile": "XLA compiles one program for minutes and goes on; the next run finds it kept.",
}
told, inside, ends = set(), False, False
for line in sys.stdin.buffer:
    text = line.decode(errors="replace")
    if re.match(r"[IWEF]\d{4} ", text):
        inside, ends = "slow_operation_alarm" in text, False
    elif ends and text.strip().strip("*"):
        inside = ends = False
    if not inside:
        sys.stdout.buffer.write(line)
    for words, sentence in SAID.items():
        if inside and words in text and words not in told:
            told.add(words)
            sys.stdout.buffer.write(sentence.encode() + b"\n")
    sys.stdout.buffer.flush()
    ends = ends or "file a bug" in text
"""


def cache_folder() -> Path:
    """The folder of compiled programs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "saboc_jax" / "xla"


def keep_programs() -> None:
    """Makes JAX keep compiled programs, unless the flag or the environment says otherwise."""
    if not COMPILATION_CACHE.value or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # without a cache we only lose time
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH_KEEPING)


def soften_alarms() -> None:
    """Replaces XLA's alarms about slow compilation by a sentence.

    A process of its own reads what is written past Python, so that nothing is lost if this one
    ends abruptly. Python's own errors go where they went.
    """
    if sys.stderr is not sys.__stderr__:  # somebody else reads it already
        return
    own = os.dup(2)
    read, write = os.pipe()
    command = [sys.executable, "-I", "-S", "-c", FILTER]
    # A session of its own: Ctrl-C is for us.
    subprocess.Popen(command, stdin=read, stdout=own, start_new_session=True).returncode = 0
    os.dup2(write, 2)
    os.close(read)
    os.close(write)
    sys.stderr = os.fdopen(own, "w", buffering=1)
