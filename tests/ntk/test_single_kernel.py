"""The compiled float32 kernel of one batch alone, at the sizes of a real search.

XLA on the CPU has fused the product of a matrix with its own transpose into a program that
reads memory it never wrote: right in float64, right at small sizes, right beside other rows. So
this is compiled as users compile, whatever flags the other tests are run with.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("kernel_alone.py")


@pytest.mark.parametrize("layers", ["together", "apart"])
def test_a_kernel_alone_is_the_kernel_beside_other_rows(layers):
    done = subprocess.run(
        [sys.executable, str(PROGRAM), layers],
        env=dict(os.environ, PYTHONPATH=os.getcwd(), XLA_FLAGS=""),
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-5
