"""Types shared by every part: aliases, records and protocols. Imports no other module of ours.

An **architecture** is one choice per decision. A **mask** tells which options of each decision are
active: one-hot rows are an architecture, multi-hot rows a supernet. The network multiplies its
options by **gates**: the mask with each row divided by its number of active options (an average).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Key

PRNGKey = Key[Array, ""]
Images = Float[Array, "n height width channels"]
Labels = Int[Array, " n"] | Float[Array, "n k"]
Targets = Float[Array, "n classes"]
Kernel = Float[Array, "n m"]
Architecture = Int[np.ndarray, " decisions"]
Gates = Float[Array, "decisions options"]
Variables = Mapping[str, Any]
Diagnostics = dict[str, Array]

LONGEST = 120  # characters of a value in a message


def brief(value: Any) -> str:
    """Returns a value as text for a message, in one line and not long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


class Batch(NamedTuple):
    """The images that a scorer reads. Fields that the scorer does not need are None.

    Attributes:
        images: [n, h, w, c] training images, normalised.
        labels: [n] classes from 0; [n, k] targets of the square loss; None if no scorer reads them.
        test_images: [n, h, w, c] held-out images.
        test_labels: [n] their labels.
        perturbed_images: [n, h, w, c] `test_images` plus Gaussian noise (SABoC-NAS Eq. 7).
        more_images: [m, n, h, w, c] further training batches (ZiCo).
        more_labels: [m, n] their labels.
        crops: [r, s, s, 1] tiny one-channel crops of training images (TE-NAS regions).
    """

    images: Images
    labels: Labels | None
    test_images: Images | None = None
    test_labels: Labels | None = None
    perturbed_images: Images | None = None
    more_images: Float[Array, "m n height width channels"] | None = None
    more_labels: Array | None = None
    crops: Float[Array, "r size size 1"] | None = None


class Cost(NamedTuple):
    """The cost of an architecture, from formulas.

    Attributes:
        params: trainable parameters.
        macs: multiply-accumulates of convolutions and dense layers for one image.
        depth: convolutions and dense layers on the longest path.
    """

    params: int
    macs: int
    depth: int


class Structure(NamedTuple):
    """What lies on the paths of a network from its input to its output.

    Layers are those that multiply by weights: convolutions and dense layers.

    Attributes:
        longest: most layers on a path.
        mean: mean number of layers on a path, over all paths.
        pool_free: number of paths without a pooling (the global one at the end is none).
        live_params: trainable parameters that lie on a path.
        activations: outputs of the layers that lie on a path, for one image.
        volume: sum of log2 of the output features of the layers that lie on a path.
        chain: most layers in a row between concatenations: the depth of a cell that ends in one.
        params: all trainable parameters, those that lie on no path as well.
    """

    longest: int
    mean: float
    pool_free: float
    live_params: int
    activations: int
    volume: float
    chain: int
    params: int


class Removals(NamedTuple):
    """The options that pruning removes together, and in which order.

    Attributes:
        phases: [decisions] their phases; one starts when all lower ones have one option left.
        bundles: [decisions, bundles, options] options that are removed together, as many bundles as
            options; empty bundles are padding.
    """

    phases: Int[np.ndarray, " decisions"]
    bundles: Bool[np.ndarray, "decisions bundles options"]


class Notation(NamedTuple):
    """A way in which other tools write the architectures of a space.

    Attributes:
        name: a word, as in `--notation`.
        example: a text in it.
        read: `read(text)` gives the architecture; ValueError says what is wrong.
        fits: `fits(text)`: does a text look like it? Such a text is read by it without being
            asked. None: only where the notation is named.
    """

    name: str
    example: str
    read: Callable[[str], Architecture]
    fits: Callable[[str], Any] | None = None


class Decisions(NamedTuple):
    """The decisions of a space, and how architectures are written and compared.

    Attributes:
        choices: number of options of each decision.
        option_names: names of the options of each decision.
        to_string: `to_string(arch)` gives the text of an architecture in the space's format.
        from_string: `from_string(text)` gives the architecture; ValueError if the text is wrong.
        gates: `gates(mask)` gives the gates; also takes an architecture.
        canonical: `canonical(arch)` gives a text that isomorphic architectures share.
        is_connected: `is_connected(mask)`: does any active path join input and output?
        notations: the texts of other tools, which `saboc_jax.read_architecture` reads.
    """

    choices: tuple[int, ...]
    option_names: tuple[tuple[str, ...], ...]
    to_string: Callable[[Architecture], str]
    from_string: Callable[[str], Architecture]
    gates: Callable[[Any], Gates]
    canonical: Callable[[Architecture], str]
    is_connected: Callable[[Any], bool]
    notations: tuple[Notation, ...] = ()


class Costs(NamedTuple):
    """The cost functions of a space.

    Attributes:
        of: `of(arch)` gives `Cost`.
        cheapest: `cheapest(mask, quantity)` gives the cheapest architecture of a supernet by a
            field of `Cost`. None: the cheapest option of each decision, separately, gives it.
        trained: `trained(arch)` gives that of the network with published accuracies; None: `of`.
        structure: `structure(arch)` gives the `Structure` of that network. None: it is read from
            the program of `specialise(arch)`.
    """

    of: Callable[[Architecture], Cost]
    cheapest: Callable[[Any, str], Architecture] | None = None
    trained: Callable[[Architecture], Cost] | None = None
    structure: Callable[[Architecture], Structure] | None = None


class SearchHints(NamedTuple):
    """What searchers need to know about a space besides its choices. Functions, to be hashable.

    Attributes:
        removals: `removals()` gives what pruning removes together; None: single options.
        evolution: `evolution()` gives the options (`start`, `mutate`, `mutate_start`) that
            evolution needs to work in this space.
    """

    removals: Callable[[], Removals | None] = lambda: None
    evolution: Callable[[], dict[str, Any]] = dict


def _as_it_is(variables: Variables, arch: Architecture) -> Variables:
    return variables


@dataclass(frozen=True, kw_only=True)
class Networks:
    """The networks of a space; base class of `OneProgram` and `ProgramEach`.

    Attributes:
        image_shape: (height, width, channels) of one input.
        num_classes: width of the outputs.
        specialise: `specialise(arch)` gives the plain Flax module of one architecture.
        extract: `extract(variables, arch)` gives that module's variables, taken from the output of
            `init`; by default they are the same.
        call: `call()` gives the keyword arguments of every call of a specialised module.
        example: shapes of one input, `jax.ShapeDtypeStruct`s; None: an image of `image_shape`.
        dtype: the floating-point type that the networks compute in (`saboc_jax.spaces.dtype`).
        loss: "cross_entropy" of classes, or "square" of targets (`layers.losses.example_loss`).
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    specialise: Callable[[Architecture], nn.Module]
    extract: Callable[[Variables, Architecture], Variables] = _as_it_is
    call: Callable[[], dict[str, Any]] = dict
    example: Any = field(default=None, hash=False)  # a mapping has no hash
    dtype: str = "float32"
    loss: str = "cross_entropy"


@dataclass(frozen=True, kw_only=True)
class OneProgram(Networks):
    """Networks that share one compiled program; an architecture is data (its gates).

    Attributes:
        init: `init(key)` gives the variables {"params": ...} of the gated supernet.
        apply: `apply(variables, gates, images, mutable=())` gives
            (outputs [n, classes], state); `state` holds the collections named in `mutable`.
        in_cells: `in_cells(path)`: does a parameter path lie in the searched cells?
        layers_per_leaf: `layers_per_leaf(path)`: how many leading axes of a parameter count layers.
        chain: its `saboc_jax.layers.chain.Chain`, whose links compile apart; None: it has none.
        thin_cell: TE-NAS's tiny network of one cell on one-channel crops; its outputs are
            feature maps. None: the space has no such network.
        known_layers: all layers are this package's.
        train: as `Network.train`; None: rules do it (known layers), or there is no such mode.
        name: the network's, for messages.
    """

    init: Callable[[PRNGKey], Variables]
    apply: Callable[..., tuple[Array, Variables]]
    in_cells: Callable[[tuple[str, ...]], bool]
    layers_per_leaf: Callable[[tuple[str, ...]], int] = lambda path: 0
    chain: Any = None
    thin_cell: "OneProgram | None" = None
    known_layers: bool = False
    train: Callable[..., tuple[Array, Any]] | None = None
    name: str = ""
    checked = True  # no field: see `ProgramEach`


@dataclass(frozen=True, kw_only=True)
class ProgramEach(Networks):
    """Networks of different shapes: each architecture (or supernet) is a program of its own.

    Attributes:
        program: `program(mask)` gives the program of that mask's network, which ignores gates.
            Masks that share a program get equal programs. It also takes an architecture.
        recipe: values that determine the networks together with the text of an architecture. A
            stored score is identified by them. None: by the traced program of its network.
        checked: can all be run? False: networks are made when they are needed; some may be refused.
    """

    program: Callable[[Any], OneProgram]
    recipe: Any = None
    checked: bool = True


class SearchSpace(NamedTuple):
    """A search space as pure functions, grouped by their users.

    Attributes:
        name: a word, as in `--space`.
        decisions: the decisions and their text forms.
        networks: the networks: one program for all, or one program for each.
        costs: the costs of architectures.
        hints: hints for searchers.
    """

    name: str
    decisions: Decisions
    networks: OneProgram | ProgramEach
    costs: Costs
    hints: SearchHints = SearchHints()

    def program(self, mask: Any) -> "SearchSpace":
        """Returns the space restricted to the program of a mask (or an architecture).

        Its `init` and `apply` are those of the mask's network. Masks that share a program get
        equal spaces; if one program serves all architectures, it is the space itself.
        """
        if isinstance(self.networks, OneProgram):
            return self
        return self._replace(networks=self.networks.program(mask))

    @property
    def one_program(self) -> OneProgram:
        """The networks, as one program.

        Raises:
            ValueError: if each architecture has its own program.
        """
        if isinstance(self.networks, ProgramEach):
            raise ValueError(
                f"space {self.name!r} has a program for each architecture; allowed: "
                "`space.program(mask)`, whose `init` and `apply` are that architecture's"
            )
        return self.networks

    @property
    def init(self) -> Callable[[PRNGKey], Variables]:
        """`OneProgram.init`; ValueError if each architecture has its own program."""
        return self.one_program.init

    @property
    def apply(self) -> Callable[..., tuple[Array, Variables]]:
        """`OneProgram.apply`; ValueError if each architecture has its own program."""
        return self.one_program.apply

    @property
    def choices(self) -> tuple[int, ...]:
        """`Decisions.choices`."""
        return self.decisions.choices

    @property
    def option_names(self) -> tuple[tuple[str, ...], ...]:
        """`Decisions.option_names`."""
        return self.decisions.option_names

    @property
    def to_string(self) -> Callable[[Architecture], str]:
        """`Decisions.to_string`."""
        return self.decisions.to_string

    @property
    def from_string(self) -> Callable[[str], Architecture]:
        """`Decisions.from_string`."""
        return self.decisions.from_string

    @property
    def gates(self) -> Callable[[Any], Gates]:
        """`Decisions.gates`."""
        return self.decisions.gates

    @property
    def canonical(self) -> Callable[[Architecture], str]:
        """`Decisions.canonical`."""
        return self.decisions.canonical

    @property
    def is_connected(self) -> Callable[[Any], bool]:
        """`Decisions.is_connected`."""
        return self.decisions.is_connected

    @property
    def notations(self) -> tuple[Notation, ...]:
        """`Decisions.notations`."""
        return self.decisions.notations

    @property
    def cost(self) -> Callable[[Architecture], Cost]:
        """`Costs.of`."""
        return self.costs.of

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`Networks.image_shape`."""
        return self.networks.image_shape

    @property
    def num_classes(self) -> int:
        """`Networks.num_classes`."""
        return self.networks.num_classes

    @property
    def specialise(self) -> Callable[[Architecture], nn.Module]:
        """`Networks.specialise`."""
        return self.networks.specialise

    @property
    def extract(self) -> Callable[[Variables, Architecture], Variables]:
        """`Networks.extract`."""
        return self.networks.extract

    @property
    def dtype(self) -> str:
        """`Networks.dtype`."""
        return self.networks.dtype

    @property
    def loss(self) -> str:
        """`Networks.loss`."""
        return self.networks.loss


class Passes(NamedTuple):
    """The cost of scoring one architecture, in passes over one batch of n images.

    Attributes:
        forward: forward passes.
        backward: backward passes.
        backward_per_image: further backward passes for each image, needed if batch norm couples
            the images of a batch.
    """

    forward: float
    backward: float
    backward_per_image: float = 0

    def __str__(self) -> str:
        """Returns "3 + 3" (forward + backward), or "3 + 3n" for 3 backward passes per image."""
        each = "n" if self.backward_per_image == 1 else f"{self.backward_per_image:g}n"
        terms = [f"{self.backward:g}"] if self.backward or not self.backward_per_image else []
        return " + ".join([f"{self.forward:g}", *terms, *([each] * bool(self.backward_per_image))])


class Observable(Protocol):
    """A quantity of a network that several scorers can share; must be hashable.

    Equal observables are computed once when scorers are scored together. An observable that reads
    a network is a frozen dataclass with the search space in its field `space`. If its attribute
    `runs_apart` is true, it is called outside the compiled program, and its value can hold its
    own "compile_seconds".
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
        observables: the quantities that it reads, by name.
        finish: `finish(observed, gates, batch)` gives (scores [k], diagnostics), pure.
        options: the options that distinguish it from scorers of the same name, for the record.
        parts: the scorers that it combines, in the order of its metrics; (): a single scorer.
        measured: a measurement on this machine, not the same bits again, and not traceable.
        entries: the numbers of columns of entries, of which the first ranks; (): all columns rank.
        ranking: its own aggregation, a key of `statistics.ranking.AGGREGATIONS`; "": Borda count.
        supernets: has it a meaning for supernets, so that pruning can use it?
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
    entries: tuple[int, ...] = ()
    ranking: str = ""
    supernets: bool = True

    @property
    def votes(self) -> int:
        """How many columns rank; those after them stand beside."""
        return self.entries[0] if self.entries else len(self.metrics)

    def score(
        self, key: PRNGKey, gates: Gates, batch: Batch
    ) -> tuple[Float[Array, " k"], Diagnostics]:
        """Scores one architecture or supernet. `key`: seeds the weights; consumed."""
        observed = {name: each(key, gates, batch) for name, each in self.observables.items()}
        return self.finish(observed, gates, batch)


class Ranking(Protocol):
    """Turns metrics into one order."""

    def __call__(
        self, scores: Float[Any, "n k"], higher_is_better: Sequence[bool]
    ) -> Float[Any, " n"]:
        """Ranks `n` architectures by `k` metrics; lower is better, non-finite last."""
        ...


class Searcher(NamedTuple):
    """A search method that sees only the choices per decision and the scores.

    Attributes:
        name: a word, as in `--searcher`.
        init: `init(key)` gives the state, a pytree of arrays.
        ask: `ask(key, state)` gives (masks [b, decisions, options], state).
        tell: `tell(state, masks, scores [b, repeats, k])` gives the state; raw metric values,
            non-finite allowed.
        done: `done(state)`: is the search over?
        best: `best(state)` gives the architecture found, [decisions] ints.
        planned: `planned()` gives how many candidates the searcher will ask for if it is not
            stopped early. None: the number is not known in advance.
    """

    name: str
    init: Callable[[PRNGKey], Any]
    ask: Callable[[PRNGKey, Any], tuple[Bool[Array, "b decisions options"], Any]]
    tell: Callable[[Any, Bool[Array, "b decisions options"], Float[Any, "b repeats k"]], Any]
    done: Callable[[Any], bool]
    best: Callable[[Any], Architecture]
    planned: Callable[[], int] | None = None
