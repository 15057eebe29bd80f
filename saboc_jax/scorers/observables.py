"""Parts that observables share: weights drawn from a key, and requests of NTKs."""

import inspect
from dataclasses import dataclass, field, replace
from typing import Any, Self

from jaxtyping import Array

from saboc_jax.keys import Purpose, key_for
from saboc_jax.layers.chain import Chain
from saboc_jax.layers.programs import ProgramCache
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.types import Batch, PRNGKey, SearchSpace, Variables


def draw_weights(space: SearchSpace, key: PRNGKey) -> Variables:
    """Draws the supernet's weights of a scoring key; all scorers and architectures share them."""
    return space.init(key_for(key, Purpose.WEIGHTS))


def has_links(space: SearchSpace, pieces: ProgramCache | None) -> bool:
    """Does an observable with these pieces run link by link, apart from the rest?"""
    return pieces is not None and space.one_program.chain is not None


@dataclass(frozen=True)
class Linked:
    """Base of observables that run link by link in a space with a chain.

    Attributes:
        space: the search space.
        pieces: the cache of compiled links; None: one program.
    """

    space: SearchSpace
    pieces: ProgramCache | None = field(default=None, compare=False, repr=False)

    @property
    def runs_apart(self) -> bool:
        """Does it compile its own pieces, so that it must not be traced with the rest?"""
        return has_links(self.space, self.pieces)

    def links(self, key: PRNGKey) -> tuple[Chain, ProgramCache, PRNGKey] | None:
        """Returns (chain, pieces, key of the weights) of a scoring key; None: one program."""
        if self.pieces is None or not self.runs_apart:
            return None
        return self.space.one_program.chain, self.pieces, key_for(key, Purpose.WEIGHTS)


@dataclass(frozen=True)
class KernelRequest:
    """A request of NTKs; `kernels.Kernels` computes them.

    Attributes:
        space: the search space.
        options: how the NTKs are computed.
        rows: `Batch` fields whose kernels with the training images are requested.
        pieces: the cache of compiled links; a space with a chain then runs link by link. None: one
            program.
        devices: how many local devices share the images; several devices run one program.
    """

    space: SearchSpace
    options: NTKOptions
    rows: tuple[str, ...] = ()
    pieces: ProgramCache | None = field(default=None, compare=False, repr=False)
    devices: int = 1

    @property
    def runs_apart(self) -> bool:
        """Does it compile its own pieces, so that it must not be traced with the rest?"""
        linked = has_links(self.space, self.pieces)
        return linked and self.devices == 1 and self.options.runs_by_links

    def covers(self, other: object) -> bool:
        """Does its value contain another observable's value?"""
        return (
            isinstance(other, KernelRequest)
            and (self.space, self.options) == (other.space, other.options)
            and set(other.rows) <= set(self.rows)
        )

    def in_passes(self, images: int) -> Self:
        """Returns the request with at most this many images per pass, if that bounds memory."""
        if not self.options.takes_chunks:
            return self
        chunk = min(images, self.options.chunk or images)
        return replace(self, options=self.options._replace(chunk=chunk))


def params_option(params: Any) -> Any:
    """Returns the entry of `Scorer.options` for a choice of parameters.

    A function at the top of a module is named by module and name. Any other callable is returned
    unchanged: no text identifies it, so a store rejects it (`check_storable`).
    """
    if not inspect.isfunction(params) or "<" in params.__qualname__:
        return params
    return f"{params.__module__}:{params.__qualname__}"


def require(batch: Batch, name: str) -> Array:
    """Returns a field of the batch.

    Raises:
        ValueError: if it is None.
    """
    value = getattr(batch, name)
    if value is None:
        raise ValueError(f"the batch field {name!r} is needed, got None")
    return value
