"""Defines what identifies a result, for stores, workdirs and Ray workers.

Two scores are the same result if they agree in
- the space and the configuration of its networks, or, if only an architecture's own program says
  what it is (a user's modules), the traced program and initialiser: editing a network changes its
  identity, renaming it does not;
- the scorer and its options;
- the key and the images of the repeat, by content: folders with different images never share a row;
- how it is computed: the precision of matrix products, the versions of packages.

The platform that computed a row is recorded with it. It is part of the identity if `same_platform`
is set (platforms add in different orders, so their bits differ), and where products are less
precise than float32, because each platform then rounds in its own way.
"""

import contextlib
from collections.abc import Collection
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import numpy as np
from jaxtyping import Bool

from saboc_jax.evaluation.jobs import Draws, Job
from saboc_jax.evaluation.records import Request, canonical_json
from saboc_jax.layers.fingerprints import digest, program_digest
from saboc_jax.precision import current_precision
from saboc_jax.types import OneProgram, Scorer, SearchSpace

PACKAGES = ("saboc_jax", "jax", "jaxlib", "flax")
"""Packages that affect the numbers. neural-tangents is not among them: it runs only on request,
and its kernels equal ours up to rounding, so installing it must not change a result's identity."""
PROGRAMS = "programs"
"""Identity of all spaces with architectures identified by their programs: they share rows."""


def current_versions() -> dict[str, str]:
    """Returns the installed versions of `PACKAGES`, without missing packages."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def computing(platform: str = "", precision: str | None = None) -> dict[str, str]:
    """Returns the settings that affect the numbers.

    Args:
        platform: the platform that computes; "": it is not part of the identity.
        precision: of products; None: JAX's setting in this process.
    """
    precision = precision or current_precision() or "default"
    return {"matmul_precision": precision} | ({"platform": platform} if platform else {})


def space_identity(space: SearchSpace, label: str = "") -> str:
    """Returns the text that identifies a space, its networks and their costs.

    Tracing a supernet takes as long as half a search of the default size, so networks that share
    one program are digested by the values that their functions hold: sizes, initialiser, type.

    Args:
        space: any search space.
        label: readable name of the space; "": its own name.
    """
    networks, last = space.networks, np.array(space.choices) - 1
    if isinstance(networks, OneProgram):
        content: Any = (networks.init, networks.apply, networks.specialise, networks.thin_cell)
    elif networks.recipe is not None:
        content = networks.recipe
    elif (chain := _chain(space)) is not None:
        content = (chain, networks.specialise(last))
    else:
        return PROGRAMS  # each architecture has an identity of its own
    facts = (space.choices, space.image_shape, space.num_classes, space.dtype)
    return f"{label or space.name}#{digest(facts, content, space.cost(last))}"


def architecture_identity(
    space: SearchSpace, mask: Bool[np.ndarray, "decisions options"], text: str
) -> str:
    """Returns the text of an architecture or supernet, or the digest of its own program."""
    networks = space.networks
    if isinstance(networks, OneProgram) or networks.recipe is not None or _chain(space) is not None:
        return text
    own = f"program#{program_digest(networks.program(mask))}"
    # Costs of a published network are not those of the program, whatever it is called elsewhere.
    return own if space.costs.structure is None else f"{own}/{space.name}:{text}"


def _chain(space: SearchSpace) -> Any:
    """Returns the first architecture's chain of layers; None: texts do not identify networks."""
    if not space.networks.checked:
        return None  # networks of any kind, which are made when they are needed
    try:
        return space.program(np.zeros(len(space.choices), int)).one_program.chain
    except Exception:  # a user's network may raise anything; it has no chain
        return None


def draw_identity(draws: Draws, repeat: int, needs: Collection[str]) -> str:
    """Returns the digest of a repeat's key and of the fields of its batch in `needs`."""
    batch = draws.batches[repeat]
    return digest(draws.keys[repeat], {name: getattr(batch, name) for name in needs})


@dataclass
class Identity:
    """Identifies the results of a runner.

    Attributes:
        space: the search space.
        draws: the key and the batch of every repeat.
        label: readable name of the space; "": its own name.
        dataset: name of the data.
        platform: the platform that computes; "": it is not part of the identity.
        precision: of products; None: JAX's setting in this process.
    """

    space: SearchSpace
    draws: Draws
    label: str = ""
    dataset: str = ""
    platform: str = ""
    precision: str | None = None
    _remembered: dict[Any, str] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self._space = space_identity(self.space, self.label)
        self._computing = canonical_json(computing(self.platform, self.precision))
        self._versions = canonical_json(current_versions())

    def request(self, job: Job, part: Scorer) -> Request:
        """Returns the identity of the row of one scorer for one job."""
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
        """Returns what identifies all scores of a workdir, besides its flags."""
        repeats = range(len(self.draws))
        data = [self._data(repeat, scorer.needs) for repeat in repeats]
        options = {part.name: dict(part.options) for part in scorer.parts or (scorer,)}
        return {
            "networks": self._space,
            "scorer_options": canonical_json(options),
            "drawn": data,
            "computing": computing(self.platform, self.precision),
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
