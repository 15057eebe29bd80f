"""Random wrong values of the flags of a binary; each case runs in a fork of one process.

python tests/fuzz/flag_cases.py BINARY CASES SEED: prints one JSON list per case, [the flag, what
became of it]. A case is bad if it prints a traceback, or ends with an error that is not one line.
"""

import importlib
import json
import os
import sys
import tempfile
from pathlib import Path

VALUES = (
    *("", "nan", "inf", "-1", "0", "0.5", "1e23", str(2**70), "1,2", "[bold]x[/bold]", "None"),
    *("no/such/file", "/", ":memory:", "{}", "true", "\u00e9\u4e2d", "params,params", "a=b", " "),
)
SMALL = {
    "search": ["--searcher=random", "--max_evaluations=2"],
    "score": ["--num_archs=2"],
    "correlate": ["--num_archs=4"],
    "ntk": ["--workdir=w"],
    "train": ["--recipe=tiny", "--arch=3,3"],
}
COMMON = ["--dataset=digits", "--scorer=params", "--repeats=1", "--batch_size=4", "--channels=1"]
SECONDS = 60  # a run that goes on is a value that is allowed


def main(binary, cases, seed):
    """Runs the cases of one binary."""
    import numpy as np
    from absl import flags

    module = importlib.import_module(f"experiments.{binary}")
    rng = np.random.default_rng((seed, sum(map(ord, binary))))
    known = sorted(
        {
            flag.name
            for name, defined in flags.FLAGS.flags_by_module_dict().items()
            if name.startswith(("experiments", "saboc_jax"))
            for flag in defined
        }
    )
    for _ in range(cases):
        flag, value = f"{rng.choice(known)}", f"{rng.choice(VALUES)}"
        print(json.dumps([f"--{flag}={value}", _in_fork(module, binary, flag, value)]), flush=True)


def _in_fork(module, binary, flag, value):
    with tempfile.TemporaryDirectory() as folder:
        child = os.fork()
        if not child:
            _child(module, binary, f"--{flag}={value}", folder)
        _, status = os.waitpid(child, 0)
        said = Path(folder, "stderr").read_text(errors="replace")
    if os.WIFSIGNALED(status):
        return "fine" if os.WTERMSIG(status) == 14 else f"killed by {os.WTERMSIG(status)}"
    return judged(os.WEXITSTATUS(status), said)


def _child(module, binary, argument, folder):
    import signal

    signal.alarm(SECONDS)
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
    given = [each for each in COMMON + SMALL.get(binary, []) if _known(each)]
    sys.argv = [f"experiments/{binary}.py", *given, argument]
    code = 0
    try:
        module.common.run(module.main)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _known(argument):
    from absl import flags

    return argument[2:].partition("=")[0] in flags.FLAGS


def judged(code, said):
    """Returns "fine", "one sentence", or what is wrong."""
    lines = [line for line in said.splitlines() if line.strip()]
    if "Traceback" in said or code == 99:
        return f"traceback: {' '.join(lines[-1:])[:200]}"
    if not code:
        return "fine"
    errors = [line for line in lines if line.startswith("error:")]
    return "one sentence" if len(errors) == 1 else f"rc {code}: {said[-200:]!r}"


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
