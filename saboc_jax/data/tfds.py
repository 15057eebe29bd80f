"""Splits of prepared TFDS directories, read without TensorFlow.

`tfds.data_source` reads them; it needs files in the array_record format.

ImageNet16-120 is NAS-Bench-201's name for the first 120 labels of the downsampled ImageNet of
Chrabaszcz et al. (2017). Their files number the labels from 1 in an order of their own, which
is neither the sorted WordNet ids nor the order of other ImageNet builders; NAS-Bench-201 keeps
the labels 1..120 and subtracts 1, and its split sizes are 151,700 and 6,000. The TFDS builder
`imagenet_resized` stores the same labels minus 1, and lists their WordNet ids in the same order
in a file of the tensorflow-datasets package. So the classes are the integers 0..119 of that
builder; if a directory has its label names in another order, labels are mapped by name.
"""

import bisect
import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from saboc_jax.data.sources import HostLabels, Positions, RawImages, Source
from saboc_jax.extras import MissingExtraError, needed
from saboc_jax.files import read_json, whole_file

Rows = Int[np.ndarray, " rows"]
NewLabel = Int[np.ndarray, " stored"]
CLASS_KEYS = ("pythonClassName", "python_class_name", "type")
FEATURES_ARE_IN = "tensorflow_datasets.core.features."
FEATURES = frozenset(
    {
        "class_label_feature.ClassLabel",
        "features_dict.FeaturesDict",
        "image_feature.Image",
        "scalar.Scalar",
        "tensor_feature.Tensor",
        "text_feature.Text",
    }
)
LABELS_OF_IMAGENET_RESIZED = "image_classification/imagenet_resized_labels.txt"


@dataclass(frozen=True)
class TfdsReader:
    """Examples of one split of a TFDS directory.

    Attributes:
        source: result of `tfds.data_source`: a sequence of examples with their description.
        directory: the directory of the version, for messages.
        ends: cumulative sum of the lengths of the shards.
        shards: file names of the shards.
        rows: positions in `source`, if the split is a part of it.
        new_label: maps each stored label to its new label, if they differ.
    """

    source: Any
    directory: Path
    ends: tuple[int, ...]
    shards: tuple[str, ...]
    rows: Rows | None = None
    new_label: NewLabel | None = None

    def __len__(self) -> int:
        return len(self.source) if self.rows is None else len(self.rows)

    def __call__(self, positions: Positions) -> tuple[RawImages, HostLabels]:
        """Decodes the examples at `positions`."""
        rows = positions if self.rows is None else self.rows[positions]
        examples = self.examples(rows.tolist())
        labels = np.array([example["label"] for example in examples], np.int64)
        if self.new_label is not None:
            labels = self.new_label[labels]
        shapes = {example["image"].shape for example in examples}
        if len(shapes) > 1:
            raise ValueError(f"{self.directory}: images of different shapes {sorted(shapes)}")
        if not examples:
            return np.zeros((0, *self.image_shape()), np.uint8), labels
        return np.stack([example["image"] for example in examples]), labels

    def image_shape(self) -> tuple[int, ...]:
        """Returns the image shape that the features declare."""
        return tuple(self.source.dataset_info.features["image"].shape)

    def examples(self, rows: list[int]) -> Sequence[dict[str, Any]]:
        """Reads stored examples by row; ValueError names the shard that cannot be read."""
        try:
            return self.source.__getitems__(rows)
        except Exception as error:  # array_record, protobuf and image decoders raise their own.
            raise ValueError(
                f"{self.directory / self._damaged(rows)} is damaged or truncated: {error}"
            ) from error

    def _damaged(self, rows: list[int]) -> str:
        """Returns the shard of the first row that cannot be read alone."""
        for row in rows:
            try:
                self.source[row]
            except Exception:
                return self.shards[bisect.bisect_right(self.ends, row)]
        return ", ".join(self.shards)

    def where(self) -> str:
        """Returns the directory."""
        return str(self.directory)


def find_tfds(name: str, roots: Sequence[Path]) -> Path | None:
    """Returns the newest version of builder `name` under the first of `roots` that has one."""
    for root in roots:
        versions = [
            (tuple(map(int, entry.name.split("."))), entry)
            for entry in (root / name).glob("*.*.*")
            if entry.is_dir() and re.fullmatch(r"\d+\.\d+\.\d+", entry.name)
        ]
        if versions:
            return max(versions)[1]
    return None


def build_command(name: str, root: Path) -> str:
    """Returns the TFDS command that prepares a builder in the format we read."""
    return f"tfds build {name} --file_format=array_record --data_dir={root}"


def prepare_tfds(name: str, root: Path) -> None:
    """Makes TFDS download and write a builder under `root`, as array_record files.

    Raises:
        ValueError: if it fails; the message says why and how to do it elsewhere.
    """
    import tensorflow_datasets as tfds  # Slow to import.

    try:
        with needed("prepare", f"Preparing {name} by TFDS"):
            _import_what_writes()
        tfds.builder(name, data_dir=str(root), file_format="array_record").download_and_prepare()
    except MissingExtraError as error:
        raise ValueError(
            f"{error}; it is needed for writing, not for reading, so `{build_command(name, root)}` "
            "on another machine will do, whose folder can be copied"
        ) from error
    except Exception as error:  # TFDS, its downloader and TensorFlow raise their own.
        said = (str(error).strip() or "no message").splitlines()[0]
        raise ValueError(
            f"TFDS could not prepare {name} in {root}: {type(error).__name__}: {said}. Where "
            f"the site of the data can be reached, run `{build_command(name, root)}`; the folder "
            f"{name.split('/')[0]} can be copied"
        ) from error


def _import_what_writes() -> None:
    """Imports what TFDS needs to write and not to read."""
    import importlib_resources  # noqa: F401
    import tensorflow  # noqa: F401


def read_tfds(
    name: str, directory: Path, test_split: str = "test", first_classes: int | None = None
) -> Source:
    """Opens a prepared TFDS directory and checks it by reading the last record of every shard.

    Args:
        name: builder and configuration, e.g. "imagenet_resized/16x16".
        directory: the directory of the version, which ends with `name`/version.
        test_split: its held-out split.
        first_classes: keep only this many classes, the first of `imagenet_resized`.

    Raises:
        ValueError: if the directory is incomplete or in another format, or a shard is truncated.
    """
    for file in ("dataset_info.json", "features.json"):
        if not (directory / file).is_file():
            raise ValueError(f"{directory} lacks {file}: it was not prepared completely")
    check_features(directory / "features.json")
    train, test = (_open_split(name, directory, split) for split in ("train", test_split))
    class_names = tuple(_features(train)["label"].names or ())
    if first_classes is None:
        return Source(train, test, class_names)
    kept = _first_classes(directory, class_names, first_classes)
    train, test = (_restrict(name, reader, kept) for reader in (train, test))
    return Source(train, test, tuple(class_names[label] for label in kept))


def check_features(path: Path) -> None:
    """Checks that features.json names only features that builders of images use.

    TFDS imports the module of whatever class the file names, which would run code of its writer.

    Raises:
        ValueError: if it is damaged or names another class.
    """
    for name in _class_names(read_json(path, dict[str, Any])):
        if not isinstance(name, str) or name.removeprefix(FEATURES_ARE_IN) not in FEATURES:
            raise ValueError(
                f"{path} names the class {name!r}; allowed: {', '.join(sorted(FEATURES))} of "
                f"{FEATURES_ARE_IN.rstrip('.')}"
            )


def _class_names(value: Any) -> Iterator[Any]:
    """Yields every class that a description of features names, in any of TFDS's formats."""
    if isinstance(value, dict):
        yield from (value[key] for key in CLASS_KEYS if key in value)
        for each in value.values():
            yield from _class_names(each)
    elif isinstance(value, list):
        for each in value:
            yield from _class_names(each)


def _features(reader: TfdsReader) -> Any:
    return reader.source.dataset_info.features


def _open_split(name: str, directory: Path, split: str, labels_only: bool = False) -> TfdsReader:
    import tensorflow_datasets as tfds  # Slow to import.

    decoders = {"image": tfds.decode.SkipDecoding()} if labels_only else None
    root = directory.parents[len(Path(name).parts)]
    try:
        source = tfds.data_source(
            f"{name}:{directory.name}",
            split=split,
            data_dir=str(root),
            download=False,
            decoders=decoders,
        )
        info = source.dataset_info.splits[split]
        shards, lengths = tuple(info.filenames), np.array(info.shard_lengths)
    except Exception as error:  # TFDS raises many exception types here.
        raise ValueError(
            f"{directory} cannot be read as split {split!r} of {name} in array_record: "
            f"{str(error).strip()}"
        ) from error
    reader = TfdsReader(source, directory, tuple(np.cumsum(lengths).tolist()), tuple(shards))
    _check(reader, lengths)
    return reader


def _check(reader: TfdsReader, lengths: Int[np.ndarray, " shards"]) -> None:
    """Checks features and shards now, because array_record opens shards only when it reads."""
    for key in ("image", "label"):
        if key not in reader.source.dataset_info.features:
            raise ValueError(f"{reader.directory}/features.json has no feature {key!r}")
    for shard in reader.shards:
        if not (reader.directory / shard).is_file():
            raise ValueError(f"{reader.directory} lacks {shard}: it is not complete")
    reader.examples([end - 1 for end, n in zip(reader.ends, lengths, strict=True) if n])


def _first_classes(directory: Path, names: tuple[str, ...], count: int) -> list[int]:
    """Returns the stored labels of the first `count` classes of `imagenet_resized`, in order."""
    import tensorflow_datasets as tfds

    if len(names) < count:
        raise ValueError(f"{directory} has {len(names)} classes, at least {count} are needed")
    if names == tuple(str(label) for label in range(len(names))):
        return list(range(count))  # Without names the labels are the builder's integers.
    published = Path(str(tfds.core.tfds_path(LABELS_OF_IMAGENET_RESIZED))).read_text().split()
    missing = [name for name in published[:count] if name not in names]
    if missing:
        raise ValueError(
            f"{directory}: label names lack {missing[0]!r}, one of the first {count} classes "
            "of imagenet_resized"
        )
    return [names.index(name) for name in published[:count]]


def _restrict(name: str, reader: TfdsReader, kept: list[int]) -> TfdsReader:
    """Returns the split with only the classes `kept`, renumbered in their order."""
    num_stored = _features(reader)["label"].num_classes
    new_label = np.full(num_stored, -1, np.int64)
    new_label[kept] = np.arange(len(kept))
    rows = _cached_rows(name, reader, kept, new_label)
    return TfdsReader(reader.source, reader.directory, reader.ends, reader.shards, rows, new_label)


def _cached_rows(name: str, reader: TfdsReader, kept: list[int], new_label: NewLabel) -> Rows:
    """Returns the rows with a kept class, cached in the user's cache directory.

    Finding them reads the label of every example, half a minute for the 1.28 million of
    ImageNet. The file name contains a digest of everything they depend on, so the cache is never
    stale.
    """
    stats = [(shard, (reader.directory / shard).stat()) for shard in reader.shards]
    parts = [(shard, stat.st_size, stat.st_mtime_ns) for shard, stat in stats]
    digest = hashlib.sha256(repr((name, parts, kept)).encode()).hexdigest()[:24]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "saboc_jax"
    path = cache / f"rows-{digest}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):
        with path.open("rb") as handle:
            rows = np.load(handle, allow_pickle=False)
        if rows.dtype == np.int64 and rows.ndim == 1 and np.all((rows >= 0) & (rows < len(reader))):
            return rows
    rows = _scan(name, reader, new_label)
    with (
        contextlib.suppress(OSError),  # Without a writable cache we only lose time.
        whole_file(path) as unfinished,
        unfinished.open("wb") as file,
    ):
        np.save(file, rows)
        file.flush()
    return rows


def _scan(name: str, reader: TfdsReader, new_label: NewLabel) -> Rows:
    """Reads all labels without images and returns the rows with a kept class."""
    split = str(reader.source.split)
    labels_only = _open_split(name, reader.directory, split, labels_only=True)
    stored = [
        example["label"]
        for start in range(0, len(reader), 8192)
        for example in labels_only.examples(list(range(start, min(start + 8192, len(reader)))))
    ]
    labels = np.array(stored, np.int64)
    bad = labels[(labels < 0) | (labels >= len(new_label))]
    if bad.size:
        raise ValueError(
            f"{reader.directory}: label {bad[0]} in split {split!r}, "
            f"must be in [0, {len(new_label)})"
        )
    return np.flatnonzero(new_label[labels] >= 0)
