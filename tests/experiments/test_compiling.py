"""Compiled programs are kept between runs; XLA's alarms are one sentence."""

import os
import subprocess
import sys

from experiments.support.compiling import FILTER

ALARMS = """before
E1129 02:27:36.115531   14075 slow_operation_alarm.cc:73] Constant folding an instruction is taking:

  %reduce_window_sum.7 = f32[1500,1500]

This isn't necessarily a bug.

If you'd like to file a bug, run with envvar XLA_FLAGS=--xla_dump_to=/tmp/foo.
E1129 02:27:37.115531   14075 slow_operation_alarm.cc:140] The operation took 1.5s
Constant folding an instruction is taking > 1s:

If you'd like to file a bug, run with envvar.
between
E1129 02:27:38.115531   14075 slow_operation_alarm.cc:73]
********************************
[Compiling module jit_f] Very slow compile? If you want to file a bug, run with envvar
********************************
W1129 02:27:39.115531   14075 other.cc:1] a warning that stays
after
"""
SLOW = """
import os, sys
from experiments.support import common, compiling
import jax, jax.numpy as jnp
common.flags.FLAGS([sys.argv[0]])
compiling.keep_programs()
compiling.soften_alarms()
os.write(2, b"E1129 02:27:36.1  14075 slow_operation_alarm.cc:73] Constant folding\\nfile a bug\\n")
print("python", file=sys.stderr)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
print(jax.jit(lambda x: jnp.sin(x) + 3)(2.0))
os.write(2, b"native\\n")
os.abort()
"""


def test_alarms_are_told_once_in_a_sentence_and_all_else_stays():
    done = subprocess.run(
        [sys.executable, "-c", FILTER], input=ALARMS, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [
        "before",
        "XLA",
        "between",
        "XLA",
        "W1129",
        "after",
    ]


def test_programs_are_kept_in_the_users_cache_and_no_message_is_lost(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", SLOW],
        env=environment | {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert any((tmp_path / "saboc_jax" / "xla").iterdir()), done.stderr
    assert {"python", "native"} <= set(done.stderr.splitlines())
    assert "XLA computes constants" in done.stderr and "slow_operation" not in done.stderr
