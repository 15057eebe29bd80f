"""Retry with smaller chunks when memory runs out.

A device takes a chunk of jobs, one (architecture, repeat) each, and runs them one after another.
If that does not fit, the chunk is halved. At one job, the number of images that a kernel takes in
one pass is halved, because the pass needs the memory. Both changes make another program, which
may add floats in another order, so the scores agree up to rounding.
"""

from dataclasses import dataclass
from typing import Any

from saboc_jax.ntk.batches import number_of
from saboc_jax.scorers.observables import KernelRequest
from saboc_jax.types import Batch, Scorer

_SIGNS = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")


@dataclass
class Chunk:
    """How much is computed at once.

    Attributes:
        jobs: (architecture, repeat) pairs that a device takes at a time, 1 or more.
        images: images in one pass of a kernel, besides the images of its columns; None: all.
        halvings: how often the chunk was made smaller.
    """

    jobs: int = 1
    images: int | None = None
    halvings: int = 0

    def __post_init__(self) -> None:
        for name in ("jobs", "images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} of a chunk; allowed: 1 or more")

    def halve(self, scorer: Scorer, batch: Batch) -> bool:
        """Makes the chunk smaller.

        Args:
            scorer: the scorer; its kernels may take fewer images in a pass.
            batch: the images.

        Returns:
            Whether anything was left to halve.
        """
        images = self.images or number_of(batch.images)
        if self.jobs > 1:
            self.jobs //= 2
        elif images > 1 and any(map(_takes_passes, scorer.observables.values())):
            self.images = images // 2
        else:
            return False
        self.halvings += 1
        return True

    def __str__(self) -> str:
        if self.images is None:
            return f"{self.jobs} at a time on a device"
        return f"1 at a time on a device, {self.images} images in a pass"


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that the host or a device ran out of memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
    )


def in_passes(scorer: Scorer, images: int | None) -> Scorer:
    """Returns the scorer with kernels that take `images` in one pass; None: unchanged."""
    if images is None:
        return scorer
    observables: dict[str, Any] = {
        name: each.in_passes(images) if isinstance(each, KernelRequest) else each
        for name, each in scorer.observables.items()
    }
    return scorer._replace(observables=observables)


def _takes_passes(observable: object) -> bool:
    return isinstance(observable, KernelRequest) and observable.options.takes_chunks
