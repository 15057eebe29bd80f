"""What identifies a result, said once: stores, workdirs and workers on Ray take it from here.

Two scores are the same result if they agree in
- the space and what configures its networks, or, where each architecture is a program of its own,
  the architecture's traced program and initialiser: an edited network is another one, one under
  another name is not;
- the scorer and its options;
- the key and the images of the repeat, by their content: two folders of data never share a row;
- how it is computed: the precision of products of matrices, the versions of packages.

The platform that computed a row is recorded with it. It identifies the row where that is asked for
(`same_platform`): other platforms add in another order, so their bits differ.
"""

import contextlib
from collections.abc import Collection
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool

from saboc_jax.evaluation.fingerprints import digest, program_digest
from saboc_jax.evaluation.jobs import Draws, Job
from saboc_jax.evaluation.records import Request, canonical_json
from saboc_jax.types import OneProgram, Scorer, SearchSpace

PACKAGES = ("saboc_jax", "jax", "jaxlib", "flax")
"""Those that decide the numbers. neural-tangents runs only where it is asked for by name, and its
kernels are ours to rounding: to install it must not make other results."""
PROGRAMS = "programs"
"""Every space whose architectures are told apart by their programs: they share their rows."""


def current_versions() -> dict[str, str]:
    """Installed versions of `PACKAGES`; absent ones are left out."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def computing(platform: str = "") -> dict[str, str]:
    """Settings of this process that decide the numbers.

    Args:
        platform: what computes, where that counts; "": it does not.
    """
    precision = getattr(jax.config, "jax_default_matmul_precision", None) or "default"
    return {"matmul_precision": precision} | ({"platform": platform} if platform else {})


def space_identity(space: SearchSpace, label: str = "") -> str:
    """A text of a space and of what configures its networks and costs.

    To trace a supernet takes as long as half a search of the default size, so the networks of one
    program are digested as the values that their functions hold: sizes, initialiser, type.

    Args:
        space: any.
        label: what people shall call it; "": its name.
    """
    networks, last = space.networks, np.array(space.choices) - 1
    if isinstance(networks, OneProgram):
        content: Any = (networks.init, networks.apply, networks.specialise, networks.thin_cell)
    elif (chain := _chain(space)) is not None:
        content = (chain, networks.specialise(last))
    else:
        return PROGRAMS  # each architecture has an identity of its own
    facts = (space.choices, space.image_shape, space.num_classes, space.dtype)
    return f"{label or space.name}#{digest(facts, content, space.cost(last))}"


def architecture_identity(
    space: SearchSpace, mask: Bool[np.ndarray, "decisions options"], text: str
) -> str:
    """The text of an architecture or supernet; the digest of its program where it has its own."""
    if isinstance(space.networks, OneProgram) or _chain(space) is not None:
        return text
    return f"program#{program_digest(space.networks.program(mask))}"


def _chain(space: SearchSpace) -> Any:
    """The first architecture's layers, where its text tells an architecture from others."""
    return space.program(np.zeros(len(space.choices), int)).one_program.chain


def draw_identity(draws: Draws, repeat: int, needs: Collection[str]) -> str:
    """The digest of a repeat's key, and of those images and labels that are needed."""
    batch = draws.batches[repeat]
    return digest(draws.keys[repeat], {name: getattr(batch, name) for name in needs})


@dataclass
class Identity:
    """Identifies the results of a runner.

    Attributes:
        space: the search space.
        draws: the key and the batch of every repeat.
        label: what people shall call the space; "": its name.
        dataset: name of the data.
        platform: what computes, where rows of other platforms are other rows; "": they are not.
    """

    space: SearchSpace
    draws: Draws
    label: str = ""
    dataset: str = ""
    platform: str = ""
    _remembered: dict[Any, str] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self._space = space_identity(self.space, self.label)
        self._computing = canonical_json(computing(self.platform))
        self._versions = canonical_json(current_versions())

    def request(self, job: Job, part: Scorer) -> Request:
        """What identifies the row of one scorer for one job."""
        return Request(
            space=self._space,
            architecture=self._architecture(job),
            scorer=part.name,
            options=canonical_json(part.options),
            dataset=self.dataset or "unnamed",
            data=self._data(job.name[1], part.needs),
            seed=self.draws.names[job.name[1]],
            computing=self._computing,
            versions=self._versions,
        )

    def record(self, scorer: Scorer) -> dict[str, Any]:
        """The same for a workdir: what identifies all that is scored in it, beside its flags."""
        repeats = range(len(self.draws))
        data = [self._data(repeat, scorer.needs) for repeat in repeats]
        options = {part.name: dict(part.options) for part in scorer.parts or (scorer,)}
        return {
            "networks": self._space,
            "scorer_options": canonical_json(options),
            "drawn": data,
            "computing": computing(self.platform),
            "versions": current_versions(),
        }

    def _architecture(self, job: Job) -> str:
        text = job.name[0]
        if text not in self._remembered:
            self._remembered[text] = architecture_identity(self.space, job.mask, text)
        return self._remembered[text]

    def _data(self, repeat: int, needs: Collection[str]) -> str:
        wanted = (repeat, frozenset(needs))
        if wanted not in self._remembered:
            self._remembered[wanted] = draw_identity(self.draws, repeat, needs)
        return self._remembered[wanted]
