"""Random wrong flags of the binaries end in a result or in one line; see `flag_cases`.

SABOC_FUZZ_CASES and SABOC_FUZZ_SEED as in `test_api_fuzz`; with them all binaries are tried.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

LONG = "SABOC_FUZZ_CASES" in os.environ
CASES = int(os.environ.get("SABOC_FUZZ_CASES", "8"))
SEED = os.environ.get("SABOC_FUZZ_SEED", "0")
SCRIPT = Path(__file__).with_name("flag_cases.py")


@pytest.mark.parametrize(
    "binary", ["search", "score", "correlate", "ntk", "train"] if LONG else ["search"]
)
def test_wrong_flags_end_in_a_result_or_one_line(binary):
    command = [sys.executable, "-W", "ignore", str(SCRIPT), binary, str(CASES), SEED]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == CASES, done.stderr[-2000:]
    counts = Counter(said if said in ("fine", "one sentence") else "bad" for _, said in answers)
    print(f"flags of {binary}: {CASES} tried, {dict(counts)}")
    bad = [f"{flag}: {said}" for flag, said in answers if said not in ("fine", "one sentence")]
    assert not bad, "\n".join(bad)
