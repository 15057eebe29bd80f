"""The folder of a run: what identifies it, and what it depended on."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import jax
from absl import flags

from saboc_jax.devices import platform_of
from saboc_jax.evaluation.identity import current_versions
from saboc_jax.files import differences, is_unfinished, read_json, write_json

from ..commands import COMMANDS

ELSEWHERE = (
    *("executor", "num_workers", "ray_address", "gpus_per_worker", "devices", "shard"),
    "compilation_cache",
)
"""Flags that say where and how fast scores are computed: no part of what identifies a run."""


def flag_values(*ignored: str) -> dict[str, Any]:
    """The values of the flags that decide a result."""
    ours = flags.FLAGS.flags_by_module_dict()
    values = {
        flag.name: flag.value
        for module, defined in ours.items()
        if "experiments" in module or module.endswith((".py", "__main__"))
        for flag in defined
    }
    ignored = ("workdir", "data_dir", *ELSEWHERE, *ignored)
    return {name: value for name, value in sorted(values.items()) if name not in ignored}


def open_workdir(path: str, settings: dict[str, Any]) -> Path:
    """Makes a workdir, or continues one of the same settings.

    Raises:
        ValueError: if it holds another run; names the settings that differ.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--workdir={path} cannot be made: {error}") from error
    record = folder / "settings.json"
    settings = json.loads(json.dumps(settings))
    if record.exists():
        differing = differences(read_json(record, dict[str, Any]), settings)
        if differing:
            raise ValueError(
                f"--workdir={path} holds another run ({differing}); choose another --workdir"
            )
    elif any(not _is_leftover(path) for path in folder.iterdir()):
        raise ValueError(
            f"--workdir={path} is not empty and not a run of ours; choose another --workdir"
        )
    else:
        write_json(record, settings)
    return folder


def _is_leftover(path: Path) -> bool:
    """Is it what `write_json` leaves of `settings.json` if it is killed?"""
    return is_unfinished(path, path.with_name("settings.json"))


def command() -> str:
    """The command that runs this program again, however it was called."""
    return shlex.join([*program(), *sys.argv[1:]])


def program() -> list[str]:
    """The words that run this program, however it was called."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = spec.name.partition("experiments.")[2] if spec else ""
    return ["saboc", name] if name in COMMANDS else ["python", sys.argv[0]]


def environment() -> dict[str, Any]:
    """What a result depends on besides its flags."""
    return {
        "command": command(),
        "versions": current_versions(),
        "device": platform_of(jax.devices()[0]),
        "devices": jax.device_count(),
    }


def run_record(*ignored: str) -> dict[str, Any]:
    """The flags that decide a result, and what else it depends on."""
    return {"settings": flag_values(*ignored), **environment()}
