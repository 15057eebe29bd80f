"""What several scorers observe of a network: weights drawn from a key, and NTKs of images."""

import inspect
from dataclasses import dataclass, field, replace
from typing import Any, Self

from jaxtyping import Array

from saboc_jax.keys import Purpose, key_for
from saboc_jax.layers.programs import ProgramCache
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.types import Batch, PRNGKey, SearchSpace, Variables


def draw_weights(space: SearchSpace, key: PRNGKey) -> Variables:
    """The supernet's weights for a scoring key: the same for every scorer and architecture."""
    return space.init(key_for(key, Purpose.WEIGHTS))


@dataclass(frozen=True)
class KernelRequest:
    """Which NTKs are wanted, and what may be done with them; `kernels.Kernels` computes them.

    Attributes:
        space: the search space.
        options: how they are computed.
        rows: `Batch` fields whose kernels with the training images are wanted.
        pieces: where the space is a chain: run it link by link, each compiled once and kept
            here; None: one program.
        devices: how many local devices share the images; with several it is one program.
    """

    space: SearchSpace
    options: NTKOptions
    rows: tuple[str, ...] = ()
    pieces: ProgramCache | None = field(default=None, compare=False, repr=False)
    devices: int = 1

    @property
    def runs_apart(self) -> bool:
        """Does it compile its own pieces, so that it is not to be traced with the rest?"""
        has_pieces = self.pieces is not None and self.space.one_program.chain is not None
        return has_pieces and self.devices == 1 and self.options.runs_by_links

    def covers(self, other: object) -> bool:
        """Does its value hold everything that another observable's value holds?"""
        return (
            isinstance(other, KernelRequest)
            and (self.space, self.options) == (other.space, other.options)
            and set(other.rows) <= set(self.rows)
        )

    def in_passes(self, images: int) -> Self:
        """The same with at most so many images in one pass, where that bounds memory."""
        if not self.options.takes_chunks:
            return self
        chunk = min(images, self.options.chunk or images)
        return replace(self, options=self.options._replace(chunk=chunk))


def params_option(params: Any) -> Any:
    """What stands for a choice of parameters in `Scorer.options`.

    A function at the top of a module is named by its place. Any other callable stands for
    itself: no text tells it from others, so a store refuses it (`check_storable`).
    """
    if not inspect.isfunction(params) or "<" in params.__qualname__:
        return params
    return f"{params.__module__}:{params.__qualname__}"


def require(batch: Batch, name: str) -> Array:
    """A field of the batch.

    Raises:
        ValueError: if it is None.
    """
    value = getattr(batch, name)
    if value is None:
        raise ValueError(f"the batch field {name!r} is needed, got None")
    return value
