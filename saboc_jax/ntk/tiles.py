"""The dense kernel of many examples, written tile by tile to a file; interrupted, it goes on.

Three files stand side by side: the kernel `NAME.npy`, of its final size from the beginning; what
it is the kernel of, `NAME.npy.json`; and which tiles are done, `NAME.npy.tiles`. A tile is marked
after its numbers are on disk, so a mark is never wrong, whenever the process or the machine stops.
Several processes may fill one file (`part`): marks are appended, and no two write one tile.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from saboc_jax.files import differences, read_json, whole_file, write_json
from saboc_jax.keys import check_whole
from saboc_jax.layers.fingerprints import digest
from saboc_jax.layers.tree import path_names
from saboc_jax.ntk.examples import Examples
from saboc_jax.ntk.network import Network
from saboc_jax.ntk.operator import PASSES, NTKOperator, ntk_operator
from saboc_jax.ntk.options import DEFAULTS, NTKOptions
from saboc_jax.precision import chosen_precision

TILE = 1024  # examples of a tile, by default
HASHED = 1024  # examples that are read at once for the digest of the inputs
FORMAT = 1  # of the files
_MARK = re.compile(rb"(\d{8}) (\d{8})")
Tile = tuple[int, int]


def empirical_ntk_blocks(
    network: Network,
    inputs: Any,
    path: str | os.PathLike[str],
    options: NTKOptions = DEFAULTS,
    *,
    tile: int = TILE,
    statistics: Any = None,
    part: tuple[int, int] = (0, 1),
    on_tile: Callable[[int, int], None] | None = None,
) -> Float[np.ndarray, "size size"]:
    """Writes the dense kernel of n examples to a file by tiles, and returns it memory-mapped.

    Each tile on or below the diagonal is computed by one backward pass; the others are its
    transposes. Called again with the same arguments it computes the tiles that are missing.

    Args:
        network: the network at fixed weights.
        inputs: see `operator.ntk_operator`; read tile by tile.
        path: the file, which ends with .npy; two more with its name and a further ending hold
            what belongs to it.
        options: see `operator.ntk_operator`.
        tile: examples of a tile's rows and of its columns.
        statistics: the batch of frozen batch norms; see `operator.ntk_operator`.
        part: (p, of): computes every of-th tile from the p-th, counted from 0, for several
            processes that fill one file. Whoever returns first returns an unfinished kernel;
            call it again without `part` to be sure.
        on_tile: called with (tiles done, tiles of this part) at the beginning and after every
            tile.

    Returns:
        [n, n], with outputs="full" [n k, n k] (row i k + a is output a of example i); read-only.

    Raises:
        ValueError: if an argument is not allowed, the network's examples interact, or there is
            another kernel or file at the path; says which.
        OSError: if the disk is full.

    Examples:
        >>> import jax, saboc_jax as sj, tempfile
        >>> network = sj.from_function(lambda w, x: jax.numpy.tanh(x @ w), jax.numpy.ones((3, 2)))
        >>> path = tempfile.mkdtemp() + "/kernel.npy"
        >>> sj.empirical_ntk_blocks(network, jax.numpy.eye(3), path, tile=2).shape
        (3, 3)
    """
    check_whole("tile", tile)
    place = Path(path)
    if place.suffix != ".npy":
        raise ValueError(f"path={str(path)!r}; allowed: a name that ends with .npy")
    operator = ntk_operator(network, inputs, options, statistics=statistics, products=PASSES)
    identity = _identity(network, Examples(inputs), options, statistics, operator) | {"tile": tile}
    done = _open(place, identity, operator)
    wanted = _share(-(-operator.number // tile), part)
    report = on_tile or (lambda done, total: None)
    finished = len(done & set(wanted))
    report(finished, len(wanted))
    for each in wanted:
        if each not in done:
            _write(place, operator, each, tile)
            _mark(place, each)
            finished += 1
            report(finished, len(wanted))
    kernel: np.ndarray = np.load(place, mmap_mode="r")
    return kernel


def _share(tiles: int, part: tuple[int, int]) -> list[Tile]:
    """Returns the tiles of a part, those on and below the diagonal.

    Raises:
        ValueError: if there is no such part.
    """
    number, of = part
    if not 0 <= number < of:
        raise ValueError(f"part={part}; allowed: (p, of) with 0 <= p < of")
    return [(i, j) for i in range(tiles) for j in range(i + 1)][number::of]


def _write(path: Path, operator: NTKOperator, tile: Tile, size: int) -> None:
    """Computes a tile and writes it and its transpose; they are on disk when it returns."""
    number, width = operator.number, operator.shape[0] // operator.number
    # The last tiles repeat the last example: all tiles have one shape and one program.
    rows, columns = (
        np.minimum(np.arange(place * size, (place + 1) * size), number - 1) for place in tile
    )
    block = np.asarray(operator.block(rows, columns))
    row, column = (
        slice(place * size * width, min((place + 1) * size, number) * width) for place in tile
    )
    block = block[: row.stop - row.start, : column.stop - column.start]
    kernel = np.load(path, mmap_mode="r+")
    kernel[row, column] = block
    kernel[column, row] = block.T
    kernel.flush()


def _mark(path: Path, tile: Tile) -> None:
    """Says durably that a tile is done. One write of fixed length: no other process cuts it."""
    handle = os.open(_marks(path), os.O_WRONLY | os.O_APPEND)
    try:
        os.write(handle, b"%08d %08d\n" % tile)
        os.fsync(handle)
    finally:
        os.close(handle)


def _open(path: Path, identity: dict[str, Any], operator: NTKOperator) -> set[Tile]:
    """Makes the files, or continues those of the same kernel; gives the tiles that are done.

    Raises:
        ValueError: if something else is there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        _compare(path, identity)
        if not path.exists():
            os.truncate(_marks(path), 0)
            _create(path, operator)
        marks = _marks(path).read_bytes()
        if marks and not marks.endswith(b"\n"):  # the machine stopped within a mark
            with open(_marks(path), "ab") as file:
                file.write(b"\n")
    found = [_MARK.fullmatch(line) for line in marks.split(b"\n")]
    return {(int(each[1]), int(each[2])) for each in found if each}


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Lets one process at a time open the files of a kernel."""
    import fcntl  # not on every system that imports this package

    with open(_marks(path), "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compare(path: Path, identity: dict[str, Any]) -> None:
    """Notes what the kernel is of, or compares it with what is noted.

    Raises:
        ValueError: if they differ; names what does.
    """
    record = path.with_name(f"{path.name}.json")
    if not record.exists():
        if path.exists():
            raise ValueError(f"{path} is there and is not a kernel of ours; allowed: another path")
        write_json(record, identity)
        return
    now = json.loads(json.dumps(identity))
    differing = differences(read_json(record, dict[str, Any]), now, show=str)
    if differing:
        raise ValueError(
            f"{path} holds another kernel ({differing}); allowed: the same, or another path"
        )


def _create(path: Path, operator: NTKOperator) -> None:
    """Makes a kernel of zeros that has its room on disk, so that no later write finds it full."""
    with whole_file(path) as unfinished:
        header = np.lib.format.open_memmap(
            unfinished, mode="w+", dtype=operator.dtype, shape=operator.shape
        )
        header.flush()
        del header
        with open(unfinished, "r+b") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, unfinished.stat().st_size)
            os.fsync(file.fileno())


def _marks(path: Path) -> Path:
    return path.with_name(f"{path.name}.tiles")


def _identity(
    network: Network,
    examples: Examples,
    options: NTKOptions,
    statistics: Any,
    operator: NTKOperator,
) -> dict[str, Any]:
    """Returns what decides the numbers of a kernel, in words and digests."""
    code = jax.make_jaxpr(lambda variables, inputs: network.apply(variables, inputs)[0])(
        network.variables, examples.part(0, 1)
    )
    named = None if statistics is None or not options.is_frozen else _content(Examples(statistics))
    return {
        "format": FORMAT,
        "size": operator.shape[0],
        "dtype": str(operator.dtype),
        "network": digest(code),
        "weights": digest(_named(network.variables)),
        "inputs": _content(examples),
        "statistics": named or "of all inputs",
        "outputs": options.outputs,
        "params": _chosen(network, options),
        "batch_norm": options.batch_norm,
        "matmul_precision": chosen_precision(),
    }


def _named(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path): leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
        for path, leaf in leaves
    }


def _content(examples: Examples) -> str:
    """Returns the digest of all inputs, read a few at a time."""

    def read(start: int) -> dict[str, Any]:
        return _named(jax.tree.map(lambda leaf: leaf[start : start + HASHED], examples.inputs))

    return digest([digest(read(start)) for start in range(0, examples.number, HASHED)])


def _chosen(network: Network, options: NTKOptions) -> str:
    """Returns the name of the chosen parameters, or the digest of those that a predicate takes."""
    predicate = options.params
    if isinstance(predicate, str):
        return predicate
    leaves = jax.tree_util.tree_leaves_with_path(network.variables["params"])
    return digest([names for names in (path_names(path) for path, _ in leaves) if predicate(names)])
