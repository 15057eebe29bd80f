"""Checkpoints of a training: what Orbax keeps, with its errors in one sentence.

Orbax writes in threads that log a traceback each before the error arrives here, so its log is held
while it works. It is imported when a run begins, because its import is slow.
"""

import errno
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from saboc_jax.files import read_json, write_json
from saboc_jax.layers.fingerprints import digest
from saboc_jax.training.train import State

FULL = ("No space left", "RESOURCE_EXHAUSTED", "Disk quota")
KEPT = 2  # checkpoints
MARGIN = 1 << 16  # bytes of a checkpoint beside its arrays


class Checkpoints:
    """The checkpoints of one run; use as a context manager.

    Args:
        folder: created if missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    def __enter__(self) -> "Checkpoints":
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, cleanup_tmp_directories=True)
        self._ocp = ocp
        with self._in_one_sentence("cannot be opened"):
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        return self

    def __exit__(self, *_: object) -> None:
        with _held_log():
            self._manager.close()

    def restore(self, start: State) -> tuple[int, State]:
        """Returns the last epoch and its state; (0, start) if there is none.

        Raises:
            ValueError: if the checkpoint is damaged or of another module.
        """
        last = self._manager.latest_step()
        if last is None:
            return 0, start
        with self._in_one_sentence(f"{last} cannot be read"):
            state = self._manager.restore(last, args=self._ocp.args.StandardRestore(start))
            if _form(state) != _form(start):
                raise ValueError("its arrays have other shapes or types than this module's")
            if read_json(self._record(last), str) != _digest(state):
                raise ValueError("its numbers are not those that were written")
        return last, state

    def save(self, epoch: int, state: State) -> None:
        """Writes a state; it is on disk when this returns.

        Raises:
            ValueError: if it cannot be written; what was written before is still there.
        """
        with self._in_one_sentence(f"{epoch} cannot be written"):
            self._check_room(sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(state)))
            # Its digest first: a checkpoint whose digest is missing would be no checkpoint.
            write_json(self._record(epoch), _digest(state))
            self._manager.save(epoch, args=self._ocp.args.StandardSave(state))
            self._manager.wait_until_finished()
        for old in self.folder.parent.glob("checkpoint-*.json"):
            if old.name not in {self._record(step).name for step in self._manager.all_steps()}:
                old.unlink()

    def _check_room(self, size: int) -> None:
        """Raises OSError if the disk has no room: TensorStore would print from its own threads."""
        if shutil.disk_usage(self.folder).free < size + MARGIN:
            raise OSError(errno.ENOSPC, "No space left on device")

    def _record(self, epoch: int) -> Path:
        return self.folder.parent / f"checkpoint-{epoch}.json"

    @contextmanager
    def _in_one_sentence(self, what: str) -> Iterator[None]:
        try:
            with _held_log():
                yield
        except Exception as error:  # of Orbax, TensorStore and their threads
            said = " ".join(str(error).split()) or type(error).__name__
            if any(word in said for word in FULL):
                said = "the disk is full"
            elif len(said) > 200:
                said = f"{said[:200]}..."
            raise ValueError(f"checkpoint {self.folder}/{what}: {said}") from error


def _digest(state: State) -> str:
    """Returns a text that tells the numbers of a state from others."""
    return digest([np.asarray(leaf) for leaf in jax.tree.leaves(state)])


def _form(state: State) -> Any:
    leaves, structure = jax.tree.flatten(state)
    return str(structure), [(np.shape(leaf), np.asarray(leaf).dtype) for leaf in leaves]


@contextmanager
def _held_log() -> Iterator[None]:
    """Keeps tracebacks of Orbax's threads out of the log; the error itself is raised here."""

    def is_no_traceback(record: logging.LogRecord) -> bool:
        return not record.exc_info

    logger = logging.getLogger("absl")
    logger.addFilter(is_no_traceback)
    try:
        yield
    finally:
        logger.removeFilter(is_no_traceback)
