"""A training run on disk: orbax checkpoints, metrics as JSON lines and for TensorBoard.

An epoch writes first its line of metrics, then its checkpoint, then its TensorBoard events, so
that a kill at any moment loses less than an epoch. On resuming, lines after the checkpoint are
dropped, and the events of all earlier epochs are written again to one new file.
tensorboardX is imported when a run begins, because its import is slow.
"""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from saboc_jax import data
from saboc_jax.data import Dataset
from saboc_jax.extras import needed
from saboc_jax.files import parse_json, write_text
from saboc_jax.forms import checked
from saboc_jax.training.checkpoints import Checkpoints
from saboc_jax.training.folder import alone, check_identity
from saboc_jax.training.train import Examples, Metrics, State, Trainer, is_finite

METRICS = "metrics.jsonl"


def first_examples(dataset: Dataset, split: str, count: int | None = None) -> Examples:
    """Loads the first examples of a split into host memory.

    Args:
        dataset: a data set opened by `saboc_jax.data.load`.
        split: "train" or "test".
        count: number of examples; None, or more than there are: all.

    Raises:
        ValueError: if `count` is less than 1.
    """
    if count is not None and count < 1:
        raise ValueError(f"{count} examples to train on; allowed: 1 or more")
    size = len(dataset.train if split == "train" else dataset.test)
    images, labels = data.fetch(dataset, split, np.arange(min(count or size, size)))
    return Examples(np.asarray(images), np.asarray(labels))


def run(
    trainer: Trainer,
    held_out: Examples,
    epochs: int,
    folder: Path,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    own: Mapping[str, Any] | None = None,
) -> tuple[State, list[dict[str, Any]]]:
    """Trains to the last epoch, starting from the last checkpoint in the folder if there is one.

    Args:
        trainer: made by `make_trainer`; the caller must not use one folder for two trainers.
        held_out: examples to evaluate after every epoch.
        epochs: number of epochs.
        folder: existing folder for checkpoints and metrics.
        on_epoch: called with the line of every epoch that ran.
        own: what the training depends on (`saboc_jax.training.folder.identity`), if the caller
            does not check by itself that the folder is of the same training.

    Returns:
        The state, and one dictionary per epoch: epoch, train_loss, train_top1, test_loss,
        test_top1, test_top5, seconds.

    Raises:
        ValueError: if the loss becomes non-finite, another process writes to the folder, or the
            folder holds another training.
        MissingExtraError: if orbax or tensorboardX is not installed.
    """
    with needed("training", "Training with checkpoints"):
        import orbax.checkpoint  # noqa: F401  # fails before the first epoch if missing
        import tensorboardX  # noqa: F401
    with alone(folder):
        if own is not None:
            check_identity(folder, own)
        return _run(trainer, held_out, epochs, folder, on_epoch)


def _run(
    trainer: Trainer,
    held_out: Examples,
    epochs: int,
    folder: Path,
    on_epoch: Callable[[dict[str, Any]], None] | None,
) -> tuple[State, list[dict[str, Any]]]:
    """Trains in a folder that is ours alone; see `run`."""
    with (
        Checkpoints(folder / "checkpoints") as kept,
        closing(open_events(folder / "tensorboard")) as writer,
    ):
        last, state = kept.restore(trainer.init())
        lines = _keep_lines(folder / METRICS, last)
        write_events(writer, lines)
        for epoch in range(len(lines), epochs):
            start = time.perf_counter()
            state, line = one_epoch(trainer, state, epoch, held_out)
            line["seconds"] = time.perf_counter() - start
            lines.append(line)
            _append(folder / METRICS, line)
            kept.save(epoch + 1, state)
            write_events(writer, [line])
            if on_epoch:
                on_epoch(line)
    return state, lines


def one_epoch(
    trainer: Trainer, state: State, epoch: int, held_out: Examples
) -> tuple[State, dict[str, Any]]:
    """Trains one epoch and evaluates; returns the state and the epoch's line without seconds.

    Raises:
        ValueError: if the loss becomes non-finite.
    """
    state, train = trainer.train_epoch(state, epoch)
    if not is_finite(train):
        raise ValueError(f"training diverged in epoch {epoch}: {train}; lower the learning rate")
    test: Metrics = trainer.evaluate(state, held_out)
    line: dict[str, Any] = {"epoch": epoch + 1}
    line |= {f"train_{name}": value for name, value in train.items()}
    return state, line | {f"test_{name}": value for name, value in test.items()}


class Line(TypedDict):
    """The metrics of one epoch, as a run keeps them; a trainer may have more."""

    epoch: int
    train_loss: float
    test_loss: float
    test_top1: float
    test_top5: float
    seconds: float


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Reads the metrics of a run, line i of epoch i; skips a last line that a kill cut off.

    Raises:
        ValueError: names the file and the line that is damaged, or of another epoch.
    """
    texts = path.read_bytes().splitlines() if path.exists() else []
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(texts, 1):
        where = f"{path}, line {number}"
        try:
            line = parse_json(text, where)
        except ValueError:
            if number == len(texts):
                break
            raise
        lines.append(checked(checked(line, dict[str, float], where), Line, where))
        if lines[-1]["epoch"] != number:
            raise ValueError(
                f"{where} is of epoch {lines[-1]['epoch']}; allowed: {number}, as line i is epoch i"
            )
    return lines


def _keep_lines(path: Path, count: int) -> list[dict[str, Any]]:
    """Drops the lines of epochs after the checkpoint."""
    lines = read_lines(path)[:count]
    if len(lines) < count:
        raise ValueError(f"{path} has {len(lines)} lines; allowed: {count}, as the checkpoint")
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
    return lines


def _append(path: Path, line: dict[str, Any]) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:  # a full disk does not say where
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def open_events(folder: Path) -> Any:
    """Opens a new file of TensorBoard events and deletes those of earlier processes."""
    from tensorboardX.event_file_writer import EventsWriter  # SummaryWriter does not flush at once

    folder.mkdir(exist_ok=True)
    for old in folder.glob("events.*"):
        old.unlink()
    return EventsWriter(str(folder / "events"))


def write_events(writer: Any, lines: list[dict[str, Any]]) -> None:
    """Writes epochs as TensorBoard events and flushes them to disk."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import scalar

    for line in lines:
        for name, value in line.items():
            if name != "epoch":
                summary = scalar(name.replace("_", "/", 1), value)
                event = Event(wall_time=time.time(), step=line["epoch"], summary=summary)
                writer.write_event(event)
    writer.flush()
