"""Flags and set-up that the binaries share."""

import functools
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from absl import app, flags, logging
from rich.console import Console

from saboc_jax import data
from saboc_jax.data import Dataset
from saboc_jax.devices import SHARDS, cores, open_cores
from saboc_jax.evaluation.evaluator import Evaluator, Executor
from saboc_jax.evaluation.ray import RayExecutor
from saboc_jax.evaluation.store import Store
from saboc_jax.keys import MAX_SEED, root_key
from saboc_jax.layers.initialise import INITIALISERS
from saboc_jax.ntk.options import BATCH_NORMS, ENGINES
from saboc_jax.precision import MATMUL_PRECISIONS
from saboc_jax.scorers import MEASURED, SCORERS
from saboc_jax.scorers.te_nas import thin_cell
from saboc_jax.searching.assembly import ScoringSettings
from saboc_jax.spaces import SPACES, known_options, make_space
from saboc_jax.spaces.darts.trained import trained
from saboc_jax.spaces.dtype import DTYPES, in_dtype
from saboc_jax.types import Scorer, SearchSpace

from .. import interrupts
from . import compiling, flag_help, pictures, workdir

SPACE = flags.DEFINE_enum("space", "nas_bench_201", sorted(SPACES), "Search space.")
DATASET = flags.DEFINE_string(
    "dataset",
    "auto",
    f"Images to score on: {', '.join(data.DATASETS)}; the path of an npz file or of a folder that "
    "has one folder of images for each class; or auto: cifar10 where it is found, else digits "
    "(built in).",
)
RESIZE = flags.DEFINE_integer(
    "resize", None, "Height and width that images are brought to; default: as they are.", 1
)
SEED = flags.DEFINE_integer("seed", 0, "Seeds weights, images and the search.", 0, MAX_SEED)
CHANNELS = flags.DEFINE_integer("channels", 8, "C, channels of the scoring network.", 1)
CELLS = flags.DEFINE_integer("cells", 1, "N, cells a stage of the scoring network.", 1)
TRAINED_SIZE = flags.DEFINE_string(
    "trained_size",
    None,
    "In the spaces of DARTS, C and cells of the network that will be trained, e.g. 36,20: costs, "
    "budgets and latency are then that network's; by default the scoring network's.",
)
INIT = flags.DEFINE_enum(
    "init", "kaiming_normal_fan_in", sorted(INITIALISERS), "How weights are drawn."
)
REDRAW_ZEROS = flags.DEFINE_bool(
    "redraw_zeros",
    False,
    "Draw weights anew that a network of others starts at zero: all before them have no gradient.",
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "n, images of a batch.", 1)
REPEATS = flags.DEFINE_integer("repeats", 3, "Draws of weights and images to average over.", 1)
NTK_ENGINE = flags.DEFINE_enum(
    "ntk_engine",
    "auto",
    ENGINES,
    "How NTKs are computed; auto: one_backward where it applies, else jacobian. neural_tangents is "
    "the reference, and has to be installed for it.",
)
CHECK = flags.DEFINE_bool(
    "check",
    True,
    "Verify the kernel of each network of others against a plain gradient. --nocheck saves about a "
    "third of its compiling, and believes it.",
)
BATCH_NORM = flags.DEFINE_enum(
    "batch_norm",
    "frozen",
    BATCH_NORMS,
    "frozen: statistics of the training batch as constants (fast). batch: every batch its own, "
    "as the papers' codes do (n backward passes).",
)
PRECISION = flags.DEFINE_enum(
    "precision",
    "float32",
    DTYPES,
    "What networks compute in; the second half of a score is always float64.",
)
MATMUL_PRECISION = flags.DEFINE_enum(
    "matmul_precision",
    MATMUL_PRECISIONS[0],
    MATMUL_PRECISIONS,
    "Of products and convolutions on GPUs and TPUs. highest: float32. default: the fastest, which "
    "is TF32 or bfloat16 and orders differently; such scores are kept apart.",
)
LATENCY_BATCH = flags.DEFINE_integer(
    "latency_batch", None, "Images of a latency measurement; default: 1.", 1
)
LATENCY_IMAGE_SIZE = flags.DEFINE_integer(
    "latency_image_size", None, "Their height and width; default: those of the dataset.", 1
)
DEVICES = flags.DEFINE_string(
    "devices",
    "all",
    "How many local devices share the scoring: a number, or all. A CPU has one for each core in "
    "binaries that score many architectures.",
)
SHARD = flags.DEFINE_enum(
    "shard",
    SHARDS[0],
    SHARDS,
    "What several devices share. architectures: each scores its own. images: all compute one NTK, "
    "each of its own images; for large networks or batches.",
)
EXECUTOR = flags.DEFINE_enum(
    "executor",
    "local",
    ["local", "ray"],
    "Who computes scores: this process, or workers on a Ray cluster (extra `ray`).",
)
NUM_WORKERS = flags.DEFINE_integer(
    "num_workers", None, "Workers of --executor=ray; default: one for each CPU of the cluster.", 1
)
RAY_ADDRESS = flags.DEFINE_string(
    "ray_address",
    None,
    "Cluster of --executor=ray; default: $RAY_ADDRESS, else a Ray of its own on this machine.",
)
GPUS_PER_WORKER = flags.DEFINE_float(
    "gpus_per_worker", 0.0, "GPUs that each worker of --executor=ray reserves.", 0.0
)
_JAX_NOTE = "JAX has removed its internal frames"
PIPED_COLUMNS = "160"  # of tables where output goes to a file: 80 cut most of them in shreds
SAME_PLATFORM = flags.DEFINE_bool(
    "same_platform",
    False,
    "Scores that another platform has computed are not served: to the bit they differ.",
)
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where data lies; else $SABOC_DATA_DIR, else TFDS's own place."
)

SIZED = ("space", "channels", "cells", "init", "precision", "trained_size")
NETWORK = (*SIZED, "redraw_zeros")
SCORING = (
    *("batch_norm", "check", "ntk_engine", "latency_batch", "latency_image_size"),
    *("matmul_precision", "same_platform", "shard"),
)
RAY = ("executor", "num_workers", "ray_address", "gpus_per_worker")
FILES_ONLY = (
    *(*NETWORK, *SCORING, *RAY, "batch_size", "compilation_cache"),
    *("dataset", "devices", "repeats", "resize", "seed"),
)
"""Flags of this module in groups, for binaries that do not read them; those of `FILES_ONLY` are not
read by one that only handles files."""


_arguments: list[str] = []


def arguments(example: str) -> list[str]:
    """What was written beside the flags.

    Raises:
        ValueError: if it is nothing; the message shows the example.
    """
    if not _arguments:
        raise ValueError(f"no names are given; allowed: one or more, such as {example}")
    return list(_arguments)


def run(
    main: Callable[[], None],
    many_devices: bool = False,
    unread: Sequence[str] = (),
    takes: str = "",
) -> None:
    """Runs a binary; bad input ends it with one line instead of a traceback.

    Args:
        main: the binary.
        many_devices: it scores many architectures, so that each core of a CPU shall be a device
            without being asked.
        unread: flags of this and other modules that it does not read: it has none of that name.
        takes: what it takes beside flags, e.g. "NAME ..." (`arguments`); "": nothing.
    """
    for name in set(unread) & set(flags.FLAGS):  # a test compares the two lists
        delattr(flags.FLAGS, name)
    if not sys.stdout.isatty():
        os.environ.setdefault("COLUMNS", PIPED_COLUMNS)

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

    def guarded(arguments: Sequence[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.ERROR)  # JAX and TFDS tell what they lack
            compiling.soften_alarms()
            console.file = sys.stderr
        try:
            if len(arguments) > 1 and not takes:
                raise ValueError(f"unexpected arguments {arguments[1:]}; flags start with --")
            _arguments[:] = arguments[1:]
            if "compilation_cache" not in unread:
                compiling.keep_programs()
            number = None if "devices" in unread else devices()
            here = "executor" in unread or EXECUTOR.value == "local"
            if here and (number or many_devices):
                open_cores(min(number, cores()) if number else cores())
            main()
            if said := pictures.notice():
                Console(highlight=False, markup=False, soft_wrap=True).print(said)
        except (ValueError, OSError, ImportError, sqlite3.Error) as error:
            console.print(f"error: {flag_help.naming_flags(one_line(error))}")
            raise SystemExit(1) from error
        except KeyboardInterrupt as error:
            number = getattr(error, "number", signal.SIGINT)
            interrupts.tell(number)
            raise SystemExit(128 + number) from error

    if set(sys.argv[1:]) & {"-h", "-help", "--help"}:
        flag_help.show(main.__globals__["__doc__"] or "")
        return

    def parse(arguments: Sequence[str]) -> list[str]:
        try:
            return flags.FLAGS(arguments)
        except flags.Error as error:
            program = " ".join(workdir.program())
            said = str(error).rstrip(".").replace("\n", " ")
            console.print(f"error: {said}; `{program} --help` lists the flags")
            raise SystemExit(1) from error

    app.run(guarded, flags_parser=parse)


def one_line(error: BaseException) -> str:
    """An error and its notes in one line, without what JAX says of its own stack frames."""
    notes = [note for note in getattr(error, "__notes__", []) if _JAX_NOTE not in note]
    return " ".join(" ".join([str(error), *notes]).split())


def set_defaults(**values: Any) -> None:
    """Changes the defaults of flags, for a binary whose study has its own."""
    for name, value in values.items():
        flags.FLAGS.set_default(name, value)


def network_text() -> str:
    """The scoring network and batch in words."""
    return (
        f"C={CHANNELS.value}, N={CELLS.value}, n={BATCH_SIZE.value}, {REPEATS.value} repeats, "
        f"seed {SEED.value}"
    )


def load_dataset(name: str | None = None) -> Dataset:
    """A dataset by name or path; by default that of `--dataset`.

    Raises:
        ValueError: if there is none of that name, or its images are not good.
        FileNotFoundError: if it is not there.
    """
    name = name or DATASET.value
    name = data.default_name(DATA_DIR.value) if name == "auto" else name
    return data.load(name, DATA_DIR.value, RESIZE.value)


def build_space(dataset: Dataset) -> SearchSpace:
    """The space of `--space` with a scoring network for that dataset.

    Raises:
        ValueError: if `--trained_size` or `--redraw_zeros` is not of this space.
    """
    # Not each space has both: ResNets bring their own widths and depth.
    sized = known_options(
        SPACE.value,
        channels=CHANNELS.value,
        num_cells=CELLS.value,
        redraw_zeros=REDRAW_ZEROS.value,
    )
    if REDRAW_ZEROS.value and "redraw_zeros" not in sized:
        raise ValueError(f"--redraw_zeros with --space={SPACE.value}; allowed: with --space=timm")
    space = make_space(
        SPACE.value,
        num_classes=dataset.num_classes,
        image_shape=dataset.image_shape,
        init=INIT.value,
        **sized,
    )
    space = trained(space, *_trained_size(TRAINED_SIZE.value)) if TRAINED_SIZE.value else space
    return in_dtype(space, PRECISION.value)


def _trained_size(text: str) -> tuple[int, int]:
    """Channels and cells of `--trained_size`."""
    parts = text.split(",")
    if (
        not SPACE.value.startswith("darts")
        or len(parts) != 2
        or not all(p.isdecimal() and int(p) for p in parts)
    ):
        raise ValueError(
            f"--trained_size={text} with --space={SPACE.value}; allowed: channels "
            "and cells, e.g. 36,20, with a space of DARTS (other spaces count the scoring network)"
        )
    return int(parts[0]), int(parts[1])


def seeds(count: int) -> range:
    """The seeds of `count` runs, which count up from `--seed`.

    Raises:
        ValueError: if there are not so many seeds.
    """
    first = SEED.value
    if first + count - 1 > MAX_SEED:
        raise ValueError(
            f"--seed={first} with {count} seeds ends at {first + count - 1}; allowed: at most "
            f"{MAX_SEED}"
        )
    return range(first, first + count)


def space_id(space: SearchSpace) -> str:
    """Names a space and all that configures its scoring network, for the store."""
    return (
        f"{space.name}/c{CHANNELS.value}n{CELLS.value}k{space.num_classes}"
        f"/{INIT.value}/{'x'.join(map(str, space.image_shape))}{dtype_text(space)}"
        + (f"/trained{TRAINED_SIZE.value}" if TRAINED_SIZE.value else "")
    )


def dtype_text(space: SearchSpace) -> str:
    """What a space's name says of its floating-point type: nothing where it is float32."""
    return "" if space.dtype == "float32" else f"/{space.dtype}"


def scorer_names(chosen: list[str]) -> list[str]:
    """The scorers of a flag; `all` are those that are no measurement."""
    everything = sorted(set(SCORERS) - MEASURED)
    return [name for each in chosen for name in (everything if each == "all" else [each])]


def settings(
    space: SearchSpace, batch_size: int | None = None, strict: bool | None = None
) -> ScoringSettings:
    """How the flags say that networks are scored.

    Args:
        space: what does not apply to it is left out.
        batch_size: images of a batch; None: `--batch_size`.
        strict: a network that cannot be scored is an error; None: where all were checked before.
    """
    if strict is None:
        strict = space.networks.checked
    options: dict[str, Any] = {"engine": NTK_ENGINE.value, "batch_norm": BATCH_NORM.value}
    if thin_cell(space) is None:
        options["regions"] = False  # TE-NAS without the network that they are counted on
    timing = {"batch_size": LATENCY_BATCH.value or 1, "image_size": LATENCY_IMAGE_SIZE.value}
    return ScoringSettings(
        REPEATS.value,
        batch_size or BATCH_SIZE.value,
        options,
        timing,
        devices(),
        SHARD.value,
        build_executor(),
        SAME_PLATFORM.value,
        matmul_precision=MATMUL_PRECISION.value,
        check=CHECK.value,
        strict=strict,
    )


def build_scorer(names: Sequence[str], space: SearchSpace) -> Scorer:
    """The scorer of a name, maybe with options (`saboc_jax.scorers.variants`), or several."""
    return settings(space).scorer(names, space)


def devices() -> int | None:
    """The number of devices of `--devices`; None: all.

    Raises:
        ValueError: if it is neither a number nor all.
    """
    if DEVICES.value == "all":
        return None
    if not DEVICES.value.isdecimal():
        raise ValueError(f"--devices={DEVICES.value}; allowed: a number, or all")
    return int(DEVICES.value)


def shrunk_text(shrunk: str) -> str:
    """Says what is computed at once since memory did not suffice (`Counts.shrunk`)."""
    return f"Memory did not suffice: from then on {shrunk}"


def notices(counts: Mapping[str, Any]) -> Iterator[str]:
    """Sentences about a run that a reader of its scores has to know (`Counts`)."""
    if counts.get("shrunk"):
        yield shrunk_text(counts["shrunk"])
    if counts.get("elsewhere"):
        yield (
            f"Some scores come from the store and were computed on {counts['elsewhere']}: they "
            "agree to rounding; --same_platform computes them here"
        )


def build_evaluator(
    dataset: Dataset,
    space: SearchSpace,
    scorer: Scorer,
    store: Store | None = None,
    on_score: Callable[[], None] | None = None,
    batch_size: int | None = None,
) -> Evaluator:
    """An evaluator whose weights and images are seeded by `--seed`, for every repeat.

    Args:
        dataset: to draw images of.
        space: to score in.
        scorer: any.
        store: where scores are kept.
        on_score: called after every score.
        batch_size: images of a batch; None: `--batch_size`.
    """
    return settings(space, batch_size).evaluator(
        space,
        scorer,
        dataset,
        root_key(SEED.value),
        seed=SEED.value,
        space_id=space_id(space),
        store=store,
        on_score=on_score,
    )


def build_executor() -> Executor | None:
    """The executor of the flags, one for the whole process; None: this process computes.

    Raises:
        ValueError: if Ray is not installed, or there is no cluster at the address.
    """
    if EXECUTOR.value == "local":
        return None
    return _ray_executor(NUM_WORKERS.value, RAY_ADDRESS.value, GPUS_PER_WORKER.value)


@functools.cache
def _ray_executor(num_workers: int | None, address: str | None, gpus: float) -> Executor:
    try:
        return RayExecutor(num_workers, address, gpus_per_worker=gpus)
    except (ImportError, ConnectionError) as error:
        raise ValueError(f"--executor=ray: {error}") from error
