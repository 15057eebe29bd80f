"""Records as NAS-Bench-101 publishes them, made here by hand, and damaged ones."""

import base64
import json
import struct

import numpy as np
import pytest

from saboc_jax.benchmarks.accuracies import read_table
from saboc_jax.spaces import make_space

OPERATIONS = "input,conv3x3-bn-relu,maxpool3x3,output"
DIGITS = "0110001000010000"


def field(number, value):
    if isinstance(value, bytes):
        return bytes([number << 3 | 2, len(value)]) + value
    if isinstance(value, float):
        return bytes([number << 3 | 1]) + struct.pack("<d", value)
    return bytes([number << 3]) + bytes([value & 127 | 128, value >> 7 & 127 | 128, value >> 14])


def training(test, params=41_162):
    evaluations = [
        field(1, b"".join(field(2 + place, float(value)) for place, value in enumerate(values)))
        for values in ((0, 0.1, 0.1, 0.1), (30, 0.5, 0.4, 0.4), (60.5, 0.99, 0.9, test))
    ]
    return b"".join(evaluations) + field(2, params) + field(3, 99.0)


def record(metrics, digits=DIGITS, operations=OPERATIONS, epochs=108):
    text = json.dumps(["hash", epochs, digits, operations, base64.b64encode(metrics).decode()])
    return struct.pack("<Q", len(text)) + b"crc1" + text.encode() + b"crc2"


def test_records_are_read_and_trainings_averaged(tmp_path):
    path = tmp_path / "nasbench_only108.tfrecord"
    second = record(training(0.5), "010001000", "input,conv1x1-bn-relu,output")
    path.write_bytes(
        record(training(0.9)) + second + record(training(0.94)) + record(training(0.1), epochs=36)
    )
    space = make_space("nas_bench_101")
    table = read_table(path, space)
    assert len(table) == 2 and table.main == "cifar10_val"
    np.testing.assert_allclose(table.column("cifar10_test"), [92, 50])
    np.testing.assert_allclose(table.column("cifar10_train"), [99, 99])
    np.testing.assert_allclose(table.column("params"), [0.041162] * 2)
    np.testing.assert_allclose(table.column("training_seconds"), [60.5] * 2)
    same = space.from_string(
        f"([[0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], {OPERATIONS.split(',')})"
    )
    np.testing.assert_array_equal(table.architectures[0], same)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (record(training(0.9))[:-9], "ends within a record"),
        (b"\x00" * 5, "ends within a record"),
        (record(training(0.9), epochs=4), "has no training of 108 epochs"),
        (record(b"\xff\xff"), "record 0: no record of NAS-Bench-101"),
        (record(training(0.9)[:40]), "record 0: no record of NAS-Bench-101"),
        (struct.pack("<Q", 2) + b"crc1{}crc2", "record 0: no record of NAS-Bench-101"),
        (record(training(0.9), "0110"), "line 2: "),
        (b"", "has no training"),
    ],
)
def test_damaged_records_are_one_sentence(tmp_path, content, said):
    path = tmp_path / "x.tfrecord"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said) as error:
        read_table(path, make_space("nas_bench_101"))
    assert str(path) in str(error.value)
