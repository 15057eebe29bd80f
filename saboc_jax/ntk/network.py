"""A network at fixed weights, in the modes that scorers ask for, and a choice of parameters."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from saboc_jax.layers import linen
from saboc_jax.layers.interceptors import Interceptor, rules_in_force
from saboc_jax.layers.rules import batch_norm_rule, fast_rules
from saboc_jax.layers.tree import Path, Predicate, path_names
from saboc_jax.types import Gates, SearchSpace, Variables

WEIGHT_NAMES = ("kernel", "scale", "embedding")  # what PyTorch calls "weight"
PARAMETERS = ("weights", "all", "cells")
STATISTICS = linen.STATISTICS


class Network(NamedTuple):
    """A network at fixed weights.

    Attributes:
        apply: `apply(variables, inputs, mutable=())` gives (outputs, state), in evaluation mode.
        variables: {"params": ..., and what else the network holds}.
        in_cells: does a parameter path lie in the searched cells? None: the network has no cells.
        layers_per_leaf: how many leading axes of a parameter count layers.
        known_layers: it consists of our own layers only, so engines and scorers may replace layers
            by equal faster ones. Otherwise its own code runs, always.
        train: `train(variables, inputs, mutable=())` gives (outputs, state) with the statistics
            of the batch; the state holds "batch_stats", updated. None: it has no such mode.
        name: for messages.
        source: identifies `apply`: networks of equal sources share compiled programs. None: the
            network shares none.
        init: `init(key)` draws other weights; None: it keeps those that it has.
        init_on: `init_on(key, inputs)` draws weights where they depend on the shapes of inputs.
        forward_mode: it will be differentiated in forward mode, which fast convolutions lack.
    """

    apply: Callable[..., tuple[Float[Array, "n k"], Variables]]
    variables: Variables
    in_cells: Predicate | None = None
    layers_per_leaf: Callable[[Path], int] = lambda path: 0
    known_layers: bool = False
    train: Callable[..., tuple[Array, Any]] | None = None
    name: str = "network"
    source: Hashable | None = None
    init: Callable[[Any], Variables] | None = None
    init_on: Callable[[Any, Any], Variables] | None = None
    forward_mode: bool = False

    @property
    def keeps_weights(self) -> bool:
        """Does it have weights of its own, whatever the key?"""
        return self.init is None and self.init_on is None

    def draw(self, key: Any, inputs: Any) -> Variables:
        """Draws weights, or returns its own; `key` is consumed.

        Args:
            key: seeds the weights.
            inputs: a batch or its shapes.
        """
        if self.init is not None:
            return self.init(key)
        if self.init_on is None:
            return self.variables
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), inputs)
        return self.init_on(key, zeros)

    def run(
        self,
        variables: Variables,
        inputs: Any,
        mode: str = "batch",
        rules: Sequence[Interceptor] = (),
        mutable: Sequence[str] = (),
    ) -> tuple[Any, Any]:
        """Returns (outputs, state) for a batch.

        Args:
            variables: of the structure of `self.variables`.
            inputs: a batch.
            mode: of batch norm: "batch", its statistics are the batch's; "stored", they are those
                in `variables`; "frozen" (known layers only), the batch's, without gradient.
            rules: interceptors of layers, the outermost first.
            mutable: the collections that the state holds.
        """
        fast = () if self.forward_mode else fast_rules()
        if self.known_layers:
            with rules_in_force(*rules, *fast, batch_norm_rule(mode)):
                return self.apply(variables, inputs, mutable)
        with rules_in_force(*rules, *fast):
            if mode == "batch" and self.train is not None:
                return self.train(variables, inputs, mutable)
            return self.apply(variables, inputs, mutable)

    def outputs(
        self,
        variables: Variables,
        inputs: Any,
        mode: str = "batch",
        rules: Sequence[Interceptor] = (),
    ) -> Any:
        """Returns the outputs for a batch; arguments as in `run`."""
        return self.run(variables, inputs, mode, rules)[0]


class Template:
    """A network without its weights; equal for equal sources."""

    def __init__(self, network: Network) -> None:
        self.network = network._replace(variables={})

    def __hash__(self) -> int:
        return hash(self.network.source)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and self.network.source == other.network.source


def with_batch_statistics(network: Network, inputs: Any) -> Network:
    """Returns the network with the statistics of a batch in place of its running ones.

    Networks of known layers are returned as they are: their rules take statistics themselves.
    """
    if network.known_layers or network.train is None:
        return network
    train, variables = network.train, network.variables
    shapes = statistics_shapes(network, inputs)
    running = variables.get(STATISTICS)
    if running is None:
        running = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    if not jax.tree.leaves(running):
        return network
    statistics = linen.own_statistics(
        lambda running: train({**variables, STATISTICS: running}, inputs)[1][STATISTICS], running
    )
    return network._replace(variables={**variables, STATISTICS: statistics})


def statistics_shapes(network: Network, inputs: Any) -> Any:
    """Returns the network's running statistics, or their shapes if they are not given."""
    running = network.variables.get(STATISTICS)
    if running is not None or network.train is None:
        return {} if running is None else running
    train = network.train
    return jax.eval_shape(
        lambda v, x: train(v, x)[1].get(STATISTICS, {}), network.variables, inputs
    )


def bind(space: SearchSpace, variables: Variables, gates: Gates) -> Network:
    """Returns the network of one architecture or supernet of a space."""
    program = space.one_program

    def apply(variables: Variables, inputs: Any, mutable: Sequence[str] = ()) -> Any:
        outputs, state = program.apply(variables, gates, inputs, mutable)
        return observed(outputs), state

    def train(variables: Variables, inputs: Any, mutable: Sequence[str] = ()) -> Any:
        given: Any = program.train
        outputs, state = given(variables, inputs, mutable)
        return observed(outputs), state

    return Network(
        apply,
        variables,
        program.in_cells,
        program.layers_per_leaf,
        program.known_layers,
        None if program.train is None else train,
        program.name or space.name,
    )


def from_module(
    module: nn.Module, variables: Variables, *, rngs: Any = None, **kwargs: Any
) -> Network:
    """Returns the network of any Flax module at given weights; `kwargs` go to its call.

    Flags such as `train` or `deterministic` are set as a scorer needs; dropout is off.

    Args:
        module: an unbound Linen module. Its input is the batch; a tuple gives several arguments.
        variables: its variables.
        rngs: random streams that its evaluation mode needs.
        **kwargs: keyword arguments of every call.
    """

    def apply(variables: Variables, inputs: Any, mutable: Sequence[str] = ()) -> Any:
        return linen.evaluate(module, kwargs, variables, inputs, mutable, rngs)

    def train(variables: Variables, inputs: Any, mutable: Sequence[str] = ()) -> Any:
        return linen.train(module, kwargs, variables, inputs, mutable, rngs)

    named = tuple(sorted(kwargs.items()))
    source = source_of((module, named, None if rngs is None else id(rngs)))
    return Network(apply, variables, train=train, name=type(module).__name__, source=source)


def source_of(parts: Hashable) -> Hashable:
    """Returns what identifies a network's code; an object of its own if that has no hash."""
    try:
        hash(parts)
    except TypeError:  # a module with an array or a dictionary among its fields
        return object()
    return parts


def from_function(
    function: Callable[[Any, Any], Any],
    params: Any = None,
    *,
    init: Callable[[Any], Any] | None = None,
    name: str = "function",
) -> Network:
    """Returns the network of any function of parameters and a batch.

    Args:
        function: `function(params, inputs)` gives outputs [n, k]; `inputs` is any tree of arrays
            with a leading axis of n examples, which must not interact.
        params: any tree of arrays, the weights. None: `init` draws them.
        init: `init(key)` draws weights; scorers then draw new ones for every key. None: they
            score the weights given.
        name: for messages.

    Raises:
        ValueError: if neither weights nor `init` are given.

    Examples:
        >>> import jax, saboc_jax as sj
        >>> network = sj.from_function(lambda w, x: x @ w, jax.numpy.ones((3, 2)))
        >>> sj.empirical_ntk(network, jax.numpy.eye(3), options=sj.NTKOptions(params="all")).shape
        (3, 3)
    """

    def apply(variables: Variables, inputs: Any, mutable: Sequence[str] = ()) -> Any:
        return function(variables["params"], inputs), {}

    if params is None and init is None:
        raise ValueError("params=None without init; allowed: weights, or init=, which draws them")
    params = init(jax.random.key(0)) if params is None and init is not None else params
    draw = None if init is None else lambda key: {"params": init(key)}
    return Network(apply, {"params": params}, name=name, source=source_of(function), init=draw)


def soundness(*values: Array) -> Float[Array, ""]:
    """Returns 1 if all values are finite, else NaN: a factor that leaves bad networks no value."""
    finite = jnp.stack([jnp.isfinite(value).all() for value in values]).all()
    return jnp.where(finite, 1.0, jnp.nan).astype(jnp.result_type(*values))


def observed(outputs: Any) -> Any:
    """Returns the outputs; if one of an example is not finite, all become NaN with their gradients.

    A bias adds to the outputs and leaves the gradients of other parameters alone. Without this a
    network that gives NaN would have the gradients, and the scores, of a healthy one.
    """
    if not hasattr(outputs, "dtype") or not jnp.issubdtype(outputs.dtype, jnp.floating):
        return outputs
    if not outputs.ndim:
        return outputs
    each = jnp.isfinite(outputs).all(tuple(range(1, outputs.ndim)), keepdims=True)
    return outputs * lax.stop_gradient(jnp.where(each, 1.0, jnp.nan).astype(outputs.dtype))


def output_shape(network: Network, inputs: Any) -> jax.ShapeDtypeStruct:
    """Returns shape and type of the outputs, without running the network.

    Raises:
        ValueError: unless the outputs are [n, k].
    """

    def run(inputs: Any) -> Array:
        return network.outputs(network.variables, inputs, "batch")

    shape: Any = jax.eval_shape(run, inputs)
    checked: Any = check_outputs(shape)
    return checked  # type: ignore[no-any-return]


def check_outputs(y: Array) -> Array:
    """Returns the outputs unchanged.

    Raises:
        ValueError: unless they are [n, k].
    """
    shape = getattr(y, "shape", None)
    if shape is None or len(shape) != 2:
        what = f"have shape {shape}" if shape is not None else f"are a {type(y).__name__}"
        raise ValueError(
            f"the network's outputs {what}; allowed: [n, k], k outputs for each example (choose or "
            "reduce others with `output=`)"
        )
    return y


def named_predicate(params: str | Predicate, in_cells: Predicate | None) -> Predicate:
    """Returns a predicate that tells which parameters the NTK is over.

    Args:
        params: "weights" (kernels and scales, no biases, as in the peers' codes), "all", "cells"
            (weights inside the searched cells), or a predicate of a path.
        in_cells: tells which paths lie in cells; None: the network has no cells.

    Raises:
        ValueError: if the name is unknown, or if "cells" is asked of a network without cells.
    """
    if callable(params):
        return params
    if params == "all":
        return lambda path: True
    if params == "weights":
        return lambda path: path[-1] in WEIGHT_NAMES
    if params != "cells":
        raise ValueError(f"params={params!r}; allowed: {PARAMETERS} or a predicate of a path")
    if in_cells is None:
        raise ValueError("params='cells', but this network does not say where its cells are")
    return lambda path: in_cells(path) and path[-1] in WEIGHT_NAMES


class NoParameterError(ValueError):
    """Raised if a predicate chooses no parameter of a network."""


def split_parameters(
    params: Mapping[str, Any], predicate: Predicate
) -> tuple[list[Array], Callable[[list[Array]], Any]]:
    """Returns the chosen leaves, and a function that puts (other) leaves back in their places.

    Raises:
        NoParameterError: if no parameter is chosen.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    chosen = [predicate(path_names(path)) for path, _ in leaves]
    if not any(chosen):
        names = sorted("/".join(path_names(path)) for path, _ in leaves)
        raise NoParameterError(f"the predicate chooses no parameter; there are {names[:6]}…")

    def restore(chosen_values: list[Array]) -> Any:
        values = iter(chosen_values)
        return jax.tree_util.tree_unflatten(
            structure,
            [next(values) if c else leaf for c, (_, leaf) in zip(chosen, leaves, strict=True)],
        )

    return [leaf for c, (_, leaf) in zip(chosen, leaves, strict=True) if c], restore
