"""NAS-Bench-101's published records, read without TensorFlow.

`nasbench_only108.tfrecord` is a TFRecord file: for each record eight bytes of length, a checksum of
four, the record, and a checksum of four, which are not verified. A record is JSON: the hash of a
cell, epochs, the adjacency matrix as digits, the operations by comma, and a protocol buffer in
base64 with the evaluations of one training (Ying et al., 2019). Each cell was trained three times.
"""

import base64
import binascii
import json
import struct
from collections.abc import Iterator
from pathlib import Path

EPOCHS = 108
SUFFIX = ".tfrecord"
_SPLITS = {3: "cifar10_train", 4: "cifar10_val", 5: "cifar10_test"}  # fields of an evaluation
_SECONDS, _EVALUATION, _PARAMS = 2, 1, 2


def read_records(path: Path) -> dict[str, tuple[str, ...]]:
    """Reads the columns of the records as text, one row for each cell, means of its trainings.

    Returns:
        "arch" (rows of the adjacency matrix, and operations), accuracies after 108 epochs in per
        cent, "training_seconds", "params" in millions.

    Raises:
        ValueError: if the file is damaged, or is no such file; names the record.
    """
    sums: dict[str, list[dict[str, float]]] = {}
    for number, record in enumerate(_records(path)):
        try:
            _, epochs, digits, operations, metrics = json.loads(record)
            values = _training(base64.b64decode(metrics, validate=True))
            size = round(len(digits) ** 0.5)
            rows = "/".join(digits[start : start + size] for start in range(0, len(digits), size))
        except (ValueError, TypeError, KeyError, IndexError, struct.error, binascii.Error) as error:
            raise ValueError(
                f"{path}, record {number}: no record of NAS-Bench-101 ({error})"
            ) from error
        if epochs == EPOCHS:
            sums.setdefault(f"{rows} {operations}", []).append(values)
    if not sums:
        raise ValueError(f"{path} has no training of {EPOCHS} epochs")
    names = next(iter(sums.values()))[0]
    columns = {
        name: tuple(repr(sum(each[name] for each in found) / len(found)) for found in sums.values())
        for name in names
    }
    return {"arch": tuple(sums), **columns}


def _records(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while head := file.read(12):
            length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else -1
            record = file.read(length) if 0 <= length < 1 << 24 else b""
            if len(record) != length or len(file.read(4)) != 4:
                raise ValueError(f"{path} ends within a record, or is no TFRecord file")
            yield record


def _training(message: bytes) -> dict[str, float]:
    """Returns what the last evaluation of a training says, and the parameters in millions."""
    fields = list(_fields(message))
    last = dict(_fields([value for number, value in fields if number == _EVALUATION][-1]))  # type: ignore[arg-type]
    found = {name: 100 * _double(last[number]) for number, name in _SPLITS.items()}
    found["training_seconds"] = _double(last[_SECONDS])
    found["params"] = int(dict(fields)[_PARAMS]) / 1e6  # type: ignore[arg-type]
    return found


def _double(value: int | bytes) -> float:
    return float(struct.unpack("<d", value)[0])  # type: ignore[arg-type]


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields (number, value) of the fields of a protocol buffer; numbers, or bytes of the rest."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        kind = tag & 7
        if kind == 0:
            value, place = _varint(message, place)
            yield tag >> 3, value
            continue
        length = {1: 8, 5: 4}.get(kind, -1)
        if kind == 2:
            length, place = _varint(message, place)
        if length < 0 or place + length > len(message):
            raise ValueError(f"field of kind {kind} at byte {place}")
        yield tag >> 3, message[place : place + length]
        place += length


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
