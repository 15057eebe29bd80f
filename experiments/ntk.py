r"""The NTK of many images: kernel, leading eigenvalues and regression, to files; it goes on.

Weights and images are those that `saboc score` draws for its first repeat with the same flags, so
S_t, S_e and S_g are its ntk_score at any n. The kernel is written by tiles; without it eigenvalues
and regression take products alone, and no kernel is in memory. Run again with its workdir, it
computes what is missing.

Examples:
  saboc ntk --workdir=runs/ntk --batch_size=2000 --channels=16
  saboc ntk --workdir=runs/kernel --what=kernel,spectrum,solve --archs=my_cells.txt --tile=512
"""

import re
from typing import Any

import numpy as np
from absl import flags
from rich.console import Console

from saboc_jax.files import write_json
from saboc_jax.layers.fingerprints import digest
from saboc_jax.ntk.network import PARAMETERS
from saboc_jax.ntk.options import OUTPUTS, NTKOptions
from saboc_jax.ntk.spectrum import number_of_top
from saboc_jax.precision import computing_in, products_at
from saboc_jax.reports.tables import results_table
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.types import PRNGKey, SearchSpace

from .support import common, kernel_files, scoring, workdir

WHAT = flags.DEFINE_list(
    "what",
    ["spectrum", "solve"],
    "By commas: kernel (to a file), spectrum (the leading eigenvalues and S_t), density (of all "
    "eigenvalues, with the effective rank), solve (kernel regression: S_e, S_g, accuracy).",
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where everything is kept; default: runs/SPACE-ntk-DATASET-nN-seedS."
)
TOP = flags.DEFINE_string(
    "top",
    "ceil",
    "Eigenvalues that count as large: a number, a fraction, or ceil or floor of the root of n.",
)
JITTER = flags.DEFINE_float(
    "jitter", 1e-3, "Of the regression, relative to the mean eigenvalue. Less takes longer.", 0.0
)
TOLERANCE = flags.DEFINE_float("tolerance", 1e-3, "Relative residual of the regression.", 1e-12)
PARAMS = flags.DEFINE_enum(
    "params", "cells", PARAMETERS, "Parameters that the kernel is over, as in ntk_score."
)
KIND = flags.DEFINE_enum(
    "outputs",
    "sum",
    OUTPUTS[:2],
    "sum: the kernel of the sum of outputs, as in ntk_score. trace: the mean over outputs.",
)
CHUNK = flags.DEFINE_integer("chunk", 256, "Images of a pass, at most.", 1)
TILE = flags.DEFINE_integer("tile", 512, "Images of a tile's rows and columns.", 1)


SHOWN = ("architecture", "S_t", "error of S_t", "S_e", "S_g", "accuracy", "residual")


def request(space: SearchSpace, key: PRNGKey) -> kernel_files.Request:
    """What the flags ask for.

    Args:
        space: of the architectures.
        key: of their weights.

    Raises:
        ValueError: if there is no such step or number.
    """
    wrong = [step for step in WHAT.value if step not in kernel_files.STEPS]
    if wrong or not WHAT.value:
        raise ValueError(f"--what={','.join(WHAT.value)}; allowed: {kernel_files.STEPS}")
    options = NTKOptions(
        params=PARAMS.value, outputs=KIND.value, batch_norm=common.BATCH_NORM.value
    )
    return kernel_files.Request(
        tuple(step for step in kernel_files.STEPS if step in WHAT.value),
        options,
        number_of_top(common.BATCH_SIZE.value, _number(TOP.value)),
        JITTER.value,
        TOLERANCE.value,
        CHUNK.value,
        TILE.value,
        space.num_classes,
        key,
    )


def _number(text: str) -> str | int | float:
    if re.fullmatch(r"0?\.\d+", text):
        return float(text)
    return int(text) if text.isdecimal() else text


def main() -> None:
    """Computes step by step, shows and keeps."""
    console = Console(highlight=False, markup=False)
    dataset = common.load_dataset()
    space = common.build_space(dataset)
    size, seed = common.BATCH_SIZE.value, common.SEED.value
    key, batch = kernel_files.draws(dataset, seed, size)
    asked, archs = request(space, key), scoring.architectures(space)
    settings = workdir.flag_values("what", "tile", "chunk", "archs", "num_archs", "arch_seed")
    settings |= {
        "architectures": [space.to_string(arch) for arch in archs],
        "images": digest(batch.images),
    }
    place = WORKDIR.value or f"runs/{space.name}-ntk-{dataset.name}-n{size}-seed{seed}"
    folder = workdir.open_workdir(place, settings)
    rows: list[dict[str, Any]] = []
    masks = architecture_to_mask(archs, max(space.choices))
    with products_at(common.MATMUL_PRECISION.value), computing_in(space.dtype):
        for number, mask in enumerate(np.asarray(masks)):
            name = space.to_string(archs[number])
            console.print(f"{number + 1} of {len(masks)}: {name}")
            own = kernel_files.network(space, mask, key)
            found = kernel_files.compute(folder / f"{number:04}", own, batch, asked, console)
            rows.append({"architecture": name, **found})
    write_json(
        folder / "result.json", {"settings": settings, **workdir.environment(), "rows": rows}
    )
    shown = [{name: row[name] for name in SHOWN if name in row} for row in rows]
    console.print(results_table(shown, title=f"{len(batch.images):,} images of {dataset.name}"))
    console.print(f"Kept in {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")


if __name__ == "__main__":
    common.set_defaults(num_archs=1, batch_size=1000)
    common.run(
        main,
        unread=(
            *common.RAY,
            "check",
            "latency_batch",
            "latency_image_size",
            "ntk_engine",
            "repeats",
            "same_platform",
            "scorers",
            "shard",
            "store",
        ),
    )
