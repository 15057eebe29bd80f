"""Types shared by every part: aliases, records and protocols. Imports nothing of ours.

An **architecture** is one choice per decision. A **mask** tells which options of each
decision are active: one-hot rows are an architecture, multi-hot rows a supernet. **Gates**
are the weights the network multiplies its options by: a mask with every row divided by its
number of active options, so that a supernet averages its active operations.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Key

PRNGKey = Key[Array, ""]
Images = Float[Array, "n height width channels"]
Labels = Int[Array, " n"]
Targets = Float[Array, "n classes"]
Kernel = Float[Array, "n m"]
Architecture = Int[np.ndarray, " decisions"]
Mask = Bool[Array, "decisions options"]
Gates = Float[Array, "decisions options"]
Variables = Mapping[str, Any]
Diagnostics = dict[str, Array]


class Batch(NamedTuple):
    """The images a scorer looks at. Fields a scorer does not need are None.

    Attributes:
        images: [n, h, w, c] training images, normalised.
        labels: [n] their integer labels.
        test_images: [n, h, w, c] held-out images.
        test_labels: [n] their integer labels.
        perturbed_images: [n, h, w, c] `test_images` plus Gaussian noise (SABoC-NAS Eq. 7).
        more_images: [m, n, h, w, c] further training batches (ZiCo).
        more_labels: [m, n] their labels.
        crops: [r, s, s, 1] tiny one-channel crops of training images (TE-NAS regions).
    """

    images: Images
    labels: Labels
    test_images: Images | None = None
    test_labels: Labels | None = None
    perturbed_images: Images | None = None
    more_images: Float[Array, "m n height width channels"] | None = None
    more_labels: Int[Array, "m n"] | None = None
    crops: Float[Array, "r size size 1"] | None = None


class Cost(NamedTuple):
    """What an architecture costs, from formulas.

    Attributes:
        params: trainable parameters.
        macs: multiply-accumulates of convolutions and dense layers for one image.
        depth: convolutions and dense layers on the longest path.
    """

    params: int
    macs: int
    depth: int


class Removals(NamedTuple):
    """What pruning takes away at a time, and when.

    Attributes:
        phases: [decisions] decisions of a phase wait until those of lower ones have one option.
        bundles: [decisions, bundles, options] options that go together; as many bundles as
            options, of which those without options are none.
    """

    phases: Int[np.ndarray, " decisions"]
    bundles: Bool[np.ndarray, "decisions bundles options"]


class SearchSpace(NamedTuple):
    """A search space as pure functions.

    Attributes:
        name: a word, as in `--space`.
        choices: number of options of each decision.
        option_names: names of the options of each decision.
        num_classes: width of the outputs.
        image_shape: (height, width, channels) of one input.
        init: `init(key)` gives the variables {"params": ...} of the gated supernet.
        apply: `apply(variables, gates, images, mutable=())` gives
            (outputs [n, classes], state); `state` holds the collections named in `mutable`.
        gates: `gates(mask)` gives the gates; also takes an architecture.
        cost: `cost(arch)` gives `Cost`.
        to_string: `to_string(arch)` gives the space's own text.
        from_string: `from_string(text)` gives the architecture; ValueError says what is wrong.
        specialise: `specialise(arch)` gives the plain Flax module of one architecture.
        extract: `extract(variables, arch)` gives that module's variables.
        canonical: `canonical(arch)` gives a text equal for isomorphic architectures.
        is_connected: `is_connected(mask)`: does any active path join input and output?
        in_cells: `in_cells(path)`: does a parameter path lie in the searched cells?
        layers_per_leaf: `layers_per_leaf(path)`: how many leading axes of the parameter at
            `path` count layers rather than weights (the supernet stacks its layers).
        thin_cell: `thin_cell()` gives the same space with TE-NAS's tiny network of one cell
            on one-channel crops, of which only `init`, `apply`, `specialise` and `extract`
            are meant (its outputs are feature maps); None: there is none.
        program: `program(mask)` gives the space as the compiled program of that mask's networks
            sees it: its `init` and `apply` are theirs, and masks that share a program get equal
            spaces. None: one program serves every mask, and `init` and `apply` are its own;
            else those of this space only raise.
        chain: the network as `saboc_jax.layers.chain.Chain`, where `program` gives one whose
            pieces can be compiled apart: a scorer may then use it instead of `apply`.
        removals: `removals()` gives what pruning takes away at a time; None: one option.
        call: `call()` gives the keyword arguments of every call of a specialised module; None:
            there are none.
        cheapest: `cheapest(mask, quantity)` gives a member of a supernet that costs least, by a
            field of `Cost`; None: the cheapest option of each decision by itself makes it.
        evolution: `evolution()` gives options of evolution (`start`, `mutate`, `mutate_start`)
            without which it makes no sense here; None: there are none.
        dtype: the floating-point type that its networks compute in (`saboc_jax.spaces.dtype`).
    """

    name: str
    choices: tuple[int, ...]
    option_names: tuple[tuple[str, ...], ...]
    num_classes: int
    image_shape: tuple[int, int, int]
    init: Callable[[PRNGKey], Variables]
    apply: Callable[..., tuple[Array, Variables]]
    gates: Callable[[Any], Gates]
    cost: Callable[[Architecture], Cost]
    to_string: Callable[[Architecture], str]
    from_string: Callable[[str], Architecture]
    specialise: Callable[[Architecture], nn.Module]
    extract: Callable[[Variables, Architecture], Variables]
    canonical: Callable[[Architecture], str]
    is_connected: Callable[[Any], bool]
    in_cells: Callable[[tuple[str, ...]], bool]
    layers_per_leaf: Callable[[tuple[str, ...]], int]
    thin_cell: Callable[[], "SearchSpace"] | None = None
    program: Callable[[Any], "SearchSpace"] | None = None
    chain: Any = None
    removals: Callable[[], Removals] | None = None
    call: Callable[[], dict[str, Any]] | None = None
    cheapest: Callable[[Any, str], Architecture] | None = None
    evolution: Callable[[], dict[str, Any]] | None = None
    dtype: str = "float32"


class Passes(NamedTuple):
    """What one score of one architecture costs, in passes over one batch of n images.

    Attributes:
        forward: passes.
        backward: passes.
        backward_per_image: further backward passes for each image, where batch norm couples the
            images of a batch.
    """

    forward: float
    backward: float
    backward_per_image: float = 0

    def __str__(self) -> str:
        """`3 + 3`, forward and backward; `3 + 3n` if there are 3 for each of n images."""
        each = "n" if self.backward_per_image == 1 else f"{self.backward_per_image:g}n"
        terms = [f"{self.backward:g}"] if self.backward or not self.backward_per_image else []
        return " + ".join([f"{self.forward:g}", *terms, *([each] * bool(self.backward_per_image))])


class Observable(Protocol):
    """A quantity of a network that several scorers may share; must be hashable.

    Equal observables are computed once when scorers are scored together. One that looks at a
    network is a frozen dataclass that holds the search space as its field `space`. One whose
    attribute `runs_apart` is true is called outside of the compiled program; what it gives may
    name the "compile_seconds" of its own.
    """

    def __call__(self, key: PRNGKey, gates: Gates, batch: Batch) -> Any:
        """Computes the quantity. `key`: seeds weights and noise; consumed."""
        ...


class Scorer(NamedTuple):
    """A training-free scorer: what to observe, and how to turn it into numbers.

    Attributes:
        name: a word, as in `--scorer`.
        metrics: names of the columns of its scores.
        higher_is_better: the direction of each column.
        needs: the fields of `Batch` it reads, e.g. {"images", "labels"}.
        passes: its cost.
        observables: the quantities it reads, by name.
        finish: `finish(observed, gates, batch)` gives (scores [k], diagnostics), pure.
        options: what distinguishes it from the scorer of the same name, for the record.
        parts: the scorers it combines, in the order of its metrics; (): it is one by itself.
        measured: it is a measurement of this machine: the same key does not give the same bits,
            and it cannot be traced. Once it is in a store, that value is served.
    """

    name: str
    metrics: tuple[str, ...]
    higher_is_better: tuple[bool, ...]
    needs: frozenset[str]
    passes: Passes
    observables: Mapping[str, Observable]
    finish: Callable[[Mapping[str, Any], Gates, Batch], tuple[Float[Array, " k"], Diagnostics]]
    options: Mapping[str, Any]
    parts: tuple["Scorer", ...] = ()
    measured: bool = False

    def score(
        self, key: PRNGKey, gates: Gates, batch: Batch
    ) -> tuple[Float[Array, " k"], Diagnostics]:
        """Scores one architecture or supernet. `key`: seeds the weights; consumed."""
        observed = {name: see(key, gates, batch) for name, see in self.observables.items()}
        return self.finish(observed, gates, batch)


class Ranking(Protocol):
    """Turns metrics into one order."""

    def __call__(
        self, scores: Float[Any, "n k"], higher_is_better: Sequence[bool]
    ) -> Float[Any, " n"]:
        """Ranks `n` architectures by `k` metrics; lower is better, non-finite last."""
        ...


class Searcher(NamedTuple):
    """A search method that sees choices per decision and scores, nothing else.

    Attributes:
        name: a word, as in `--searcher`.
        init: `init(key)` gives the state, a pytree of arrays.
        ask: `ask(key, state)` gives (masks [b, decisions, options], state).
        tell: `tell(state, masks, scores [b, repeats, k])` gives the state; raw metric values,
            non-finite allowed.
        done: `done(state)`: is the search over?
        best: `best(state)` gives the architecture found, [decisions] ints.
        planned: `planned()` gives how many candidates the searcher will ask for if nothing stops
            it. None: that is not known beforehand.
    """

    name: str
    init: Callable[[PRNGKey], Any]
    ask: Callable[[PRNGKey, Any], tuple[Bool[Array, "b decisions options"], Any]]
    tell: Callable[[Any, Bool[Array, "b decisions options"], Float[Any, "b repeats k"]], Any]
    done: Callable[[Any], bool]
    best: Callable[[Any], Architecture]
    planned: Callable[[], int] | None = None
