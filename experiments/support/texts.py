"""Texts of architectures in the notation of `--notation`."""

from absl import flags

from saboc_jax.api.architectures import read_architecture
from saboc_jax.types import Architecture, SearchSpace

from . import common

NOTATION = flags.DEFINE_string(
    "notation",
    None,
    "How architectures are written, e.g. naslib, index, nas_bench_301; default: as they look. "
    "A wrong name lists those of the space.",
)


def read(text: str, space: SearchSpace) -> Architecture:
    """The architecture of a text."""
    return read_architecture(text, space, NOTATION.value, data_dir=common.DATA_DIR.value)
