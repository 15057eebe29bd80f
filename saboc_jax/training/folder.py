"""The folder of a training: whose it is, and that one process at a time writes to it."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from saboc_jax.evaluation.identity import computing, current_versions
from saboc_jax.files import differences, read_json, write_json
from saboc_jax.layers.fingerprints import digest
from saboc_jax.training.modes import STREAMS, Call, Modes, example, init_variables
from saboc_jax.training.recipes import Recipe
from saboc_jax.training.train import Examples

IDENTITY = "training.json"
FINGERPRINT = 64  # images that tell one set of images from another


def identity(
    name: str, modes: Modes, recipe: Recipe, seed: int, examples: Examples, held_out: Examples
) -> dict[str, Any]:
    """Returns what a training depends on: equal identities give equal bits on one platform.

    Args:
        name: how the candidate is called in messages.
        modes: how it is called, from which its programs are digested.
        recipe: the settings.
        seed: seed of weights, order and augmentation.
        examples: training examples; their number and the first of them enter.
        held_out: those to evaluate on, likewise.
    """
    programs = [_programs(call, examples.images) for call in (modes.training, modes.evaluation)]
    found: dict[str, Any] = {"candidate": f"{name}#{digest(programs)}", "seed": seed}
    found |= {f"recipe.{key}": value for key, value in asdict(recipe).items() if key != "source"}
    for split, given in {"train": examples, "test": held_out}.items():
        drawn = digest(*(array[:FINGERPRINT] for array in given))
        found[f"{split} images"] = f"{len(given.images)}#{drawn}"
    return found | {"computing": computing(), "versions": current_versions()}


def _programs(call: Call, images: np.ndarray) -> tuple[Any, Any]:
    """Returns the traced programs that draw a module's variables, and that run it."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    keys, one = dict.fromkeys(STREAMS, key), example(images)
    init, variables = jax.make_jaxpr(partial(init_variables, call), return_shape=True)(keys, one)

    def run(variables: Any, images: Any, keys: Any) -> Any:
        others = [name for name in variables if name != "params"]
        return call.module.apply(variables, images, rngs=keys, mutable=others, **call.keywords)

    return init, jax.make_jaxpr(run)(variables, one, keys)


def check_identity(folder: Path, own: Mapping[str, Any]) -> None:
    """Records whose folder it is, or checks that it is that of the same training.

    Raises:
        ValueError: if it holds another training; names what differs, or a training that does not
            say what it is of.
    """
    record = folder / IDENTITY
    own = json.loads(json.dumps(own))
    if record.exists():
        differing = differences(read_json(record, dict[str, Any]), own)
        if differing:
            raise ValueError(
                f"{folder} holds another training ({differing}); choose another folder"
            )
    elif (folder / "checkpoints").exists():
        raise ValueError(
            f"{folder} holds a training that does not say of what ({IDENTITY} is missing); choose "
            "another folder"
        )
    else:
        write_json(record, own)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a folder while the context lasts.

    The lock is the kernel's, on the folder itself: it ends with the process, however that ends, and
    leaves no file. Where there is no such lock (some network file systems), nothing is kept out.

    Raises:
        ValueError: at once, if another process holds the folder.
    """
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(partial(fcntl.flock, handle, fcntl.LOCK_EX | fcntl.LOCK_NB), folder)
        yield
    finally:
        os.close(handle)


def _lock(lock: Callable[[], None], folder: Path) -> None:
    try:
        lock()
    except BlockingIOError as error:
        raise ValueError(
            f"{folder} is being written by another training; wait for it, or choose another folder"
        ) from error
    except OSError:
        pass
