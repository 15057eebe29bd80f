"""Gradients of the loss at initialisation, layer by layer, for several scorers.

The loss is the cross-entropy with classes, or the square loss of floating-point targets.

SNIP, GradNorm and Fisher sum a statistic of one forward and one backward pass over layers. The pass
and the statistics are one observable, so that these scorers together cost one pass; each scorer's
file holds its formula. A layer is a convolution or a dense layer and its weights are its kernel:
batch norm and biases do not count. In the supernet a parameter stacks the layers of a stage; every
layer has its own statistics, which are zero if it does not run.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from saboc_jax.layers.chain import Chain, Link, shapes_of
from saboc_jax.layers.interceptors import Interceptor, is_call, is_own
from saboc_jax.layers.links import outputs_of, run_backward, run_forward
from saboc_jax.layers.losses import example_loss
from saboc_jax.layers.programs import ProgramCache
from saboc_jax.layers.roles import KERNEL
from saboc_jax.layers.tree import Path, Predicate, flatten
from saboc_jax.ntk.network import Network, NoParameterError, bind, split_parameters
from saboc_jax.ntk.reading import read_statically
from saboc_jax.scorers import foreign
from saboc_jax.scorers.observables import Linked, draw_weights, require
from saboc_jax.types import Batch, Gates, Images, Labels, PRNGKey, SearchSpace

LAYERS = (nn.Conv, nn.Dense)


def is_kernel(path: Path) -> bool:
    """Is the parameter at this path the weights of a convolution or dense layer?"""
    return path[-1] == "kernel"


def kernel_predicate(network: Network, inputs: Any) -> Predicate:
    """Returns which parameters are the weights of convolutions and dense layers.

    Of known layers by name, of any other network by role: what it multiplies into the example by
    a product or a convolution.

    Raises:
        NoParameterError: if there are none.
    """
    if network.known_layers:
        return is_kernel
    read = read_statically(network, inputs)
    kernels = read.with_roles(frozenset((KERNEL,)))
    if not kernels:
        names = ", ".join("/".join(path) for path in read.paths[:6])
        raise NoParameterError(
            f"{network.name} multiplies no parameter into its input by a product or convolution; "
            f"its parameters are {names}"
        )
    return lambda path: path in kernels


def training_loss(
    network: Network, images: Images, labels: Labels, predicate: Predicate | None = None
) -> tuple[Callable[[list[Array]], Float[Array, ""]], list[Array]]:
    """Returns the mean loss in train mode as a function of parameters, and the parameters.

    Args:
        network: at fixed weights.
        images: one batch.
        labels: of the images, see `layers.losses.example_loss`.
        predicate: chooses the parameters; the others are constants. None: kernels.
    """
    predicate = kernel_predicate(network, images) if predicate is None else predicate
    leaves, restore = split_parameters(network.variables["params"], predicate)

    def loss(leaves: list[Array]) -> Array:
        outputs = network.outputs({**network.variables, "params": restore(leaves)}, images)
        return example_loss(outputs, labels).mean()

    return loss, leaves


def sum_per_layer(
    network: Network, values: Sequence[Float[Array, "..."]], inputs: Any
) -> Float[Array, " layers"]:
    """Sums one array per kernel over the weights of each layer.

    Args:
        network: tells which leading axes of a kernel count layers.
        values: arrays of the kernels' shapes, in the order of the kernels' paths.
        inputs: a batch; only its shapes matter.
    """
    predicate = kernel_predicate(network, inputs)
    paths = [path for path in flatten(network.variables["params"]) if predicate(path)]
    sums = []
    for path, value in zip(paths, values, strict=True):
        axes = tuple(range(network.layers_per_leaf(path), value.ndim))
        sums.append(value.sum(axes).reshape(-1))
    return jnp.concatenate(sums)


# --- a layer's output times its gradient -------------------------------------------------------


def fisher_rule(tap_of: Callable[[Path, tuple[int, ...]], tuple[Any, int]]) -> Interceptor:
    """Returns an interceptor that taps every layer's output.

    Args:
        tap_of: (path of the kernel, its shape) gives (tap, weights that feed a channel).
    """

    def rule(next_fun: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        y = next_fun(*args, **kwargs)
        if not is_call(context, LAYERS) or not any(is_own(context, kind) for kind in LAYERS):
            return y
        kernel = context.module.get_variable("params", "kernel")
        tap, fan_in = tap_of((*context.module.path, "kernel"), kernel.shape)
        return foreign.fisher_tap(0, (y.ndim - 1,), fan_in, y, tap)

    return rule


def _one_tap(tap: Float[Array, "2"], tapped: list[Path]) -> Interceptor:
    """Returns the rule with one tap for all layers, whose paths it adds to `tapped`."""

    def tap_of(path: Path, shape: tuple[int, ...]) -> tuple[Any, int]:
        tapped.append(path)
        return tap, math.prod(shape[:-1])

    return fisher_rule(tap_of)


# --- the shared observable ----------------------------------------------------------------------


class LayerStatistics(NamedTuple):
    """Statistics of one backward pass of the mean loss L.

    Attributes:
        saliency: [layers] sum |w dL/dw| over the layer's weights.
        squared_norm: [layers] sum (dL/dw)^2 over the layer's weights.
        squared_norm_all: sum (dL/dp)^2 over all parameters p of the network.
        fisher: (sum of D_c times the number of weights that feed c, sum of D_c) over all channels
            c of all layers, where D_c = 1/2 mean_b (sum_pixels a dL/da)^2 and a is the layer's
            output. NaN if no layer is observed (only Linen's `Conv` and `Dense` are; for others
            see `ForeignFisher`).
    """

    saliency: Float[Array, " layers"]
    squared_norm: Float[Array, " layers"]
    squared_norm_all: Float[Array, ""]
    fisher: Float[Array, "2"]


def layer_statistics(network: Network, images: Images, labels: Labels) -> LayerStatistics:
    """Runs one forward and one backward pass in train mode; returns statistics of layers."""
    params = network.variables["params"]
    tapped: list[Path] = []

    def loss(params: Any, tap: Array) -> Array:
        variables = {**network.variables, "params": params}
        logits = network.outputs(variables, images, rules=(_one_tap(tap, tapped),))
        return example_loss(logits, labels).mean()

    dtype = jnp.result_type(*jax.tree.leaves(params))
    gradients, fisher = jax.grad(loss, (0, 1))(params, jnp.zeros(2, dtype))
    fisher = fisher if tapped else jnp.full(2, jnp.nan, dtype)
    predicate = kernel_predicate(network, images)
    w, g = (split_parameters(tree, predicate)[0] for tree in (params, gradients))
    return LayerStatistics(
        sum_per_layer(network, [jnp.abs(a * b) for a, b in zip(w, g, strict=True)], images),
        sum_per_layer(network, [jnp.square(b) for b in g], images),
        jnp.stack([jnp.square(leaf).sum() for leaf in jax.tree.leaves(gradients)]).sum(),
        fisher,
    )


def linked_statistics(
    chain: Chain, pieces: ProgramCache, key: PRNGKey, images: Images, labels: Labels
) -> LayerStatistics:
    """Computes `layer_statistics` of a chain link by link, layers in the order of its links.

    Args:
        chain: the network.
        pieces: the cache of compiled links.
        key: seeds the weights.
        images: one batch.
        labels: of the images.
    """
    last, saved = run_forward(chain, pieces, key, images, outputs_of, "outputs")
    g = pieces.run("loss", jax.grad(_mean_loss), last, labels)
    _, found = run_backward(chain, pieces, saved, g, _link_statistics, "layer statistics")
    saliency, squared, everything, fisher = zip(*found[::-1], strict=True)
    fan_in = jnp.asarray(_feeding(chain, images), g.dtype)
    channels = jnp.concatenate(fisher)
    return LayerStatistics(
        jnp.concatenate(saliency),
        jnp.concatenate(squared),
        jnp.stack(everything).sum(),
        jnp.stack([(channels * fan_in).sum(), channels.sum()]),
    )


def _mean_loss(outputs: Array, labels: Labels) -> Float[Array, ""]:
    return example_loss(outputs, labels).mean()


def _kernels(params: Any) -> list[Path]:
    return [path for path in flatten(params) if is_kernel(path)]


def _feeding(chain: Chain, images: Images) -> list[float]:
    """Returns how many weights feed a channel, for each kernel; as they run they may be padded."""
    outputs, found = [jax.ShapeDtypeStruct(images.shape[1:], images.dtype)], []
    for link in chain.links:
        params, output = shapes_of(link.module, *(outputs[place] for place in link.takes))
        outputs.append(output)
        shapes = flatten(params)
        found += [float(math.prod(shapes[path].shape[:-1])) for path in _kernels(params)]
    return found


def _link_statistics(
    link: Link, params: Any, xs: tuple[Array, ...], g: Array
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Returns (cotangents of the inputs, saliency, squared norms and channels of its layers)."""
    paths = _kernels(params)

    def run(params: Any, xs: tuple[Array, ...], taps: list[Array]) -> Array:
        rule = fisher_rule(lambda path, shape: (taps[paths.index(path)], 1))
        return outputs_of(link, params, *xs, rules=(rule,))

    taps = [jnp.zeros(2, g.dtype) for _ in paths]
    gradients, back, tapped = jax.vjp(run, params, xs, taps)[1](g)
    w, own = flatten(params), flatten(gradients)
    zero = jnp.zeros(0, g.dtype)
    total = sum((jnp.square(leaf).sum() for leaf in own.values()), jnp.zeros((), g.dtype))
    if not paths:
        return back, (zero, zero, total, zero)
    return back, (
        jnp.stack([jnp.abs(w[path] * own[path]).sum() for path in paths]),
        jnp.stack([jnp.square(own[path]).sum() for path in paths]),
        total,
        jnp.stack([tap[1] for tap in tapped]),
    )


@dataclass(frozen=True)
class LossGradients(Linked):
    """Observable: `layer_statistics` of the training images at the key's weights."""

    def __call__(self, key: PRNGKey, gates: Gates, batch: Batch) -> LayerStatistics:
        """Runs one forward and one backward pass."""
        images, labels = require(batch, "images"), require(batch, "labels")
        links = self.links(key)
        if links is not None:
            return linked_statistics(*links, images, labels)
        return layer_statistics(bind_drawn(self.space, key, gates), images, labels)


@dataclass(frozen=True)
class ForeignFisher(Linked):
    """Observable: `LayerStatistics.fisher` of a network of another origin, from its program.

    NaN for our own networks and for chains, which `LossGradients` serves, and for networks whose
    layers lie in loops, of which it sees Linen's.
    """

    def __call__(self, key: PRNGKey, gates: Gates, batch: Batch) -> Float[Array, "2"]:
        """Runs one forward and one backward pass."""
        if self.runs_apart:
            return jnp.full(2, jnp.nan)
        network = bind_drawn(self.space, key, gates)
        found = foreign_fisher(network, require(batch, "images"), require(batch, "labels"))
        return jnp.full(2, jnp.nan) if found is None else found


def foreign_fisher(network: Network, inputs: Any, labels: Labels) -> Float[Array, "2"] | None:
    """Returns `LayerStatistics.fisher` of a network of another origin; None: Linen's layers tell.

    Args:
        network: at fixed weights.
        inputs: one batch.
        labels: of the inputs.

    Raises:
        ValueError: if no layer is found.
    """
    if network.known_layers:
        return None

    def loss(logits: Array) -> Float[Array, ""]:
        return example_loss(logits, labels).mean()

    found = foreign.fisher_information(network, inputs, loss)
    if found is None and not _sees_layers(network, inputs):
        raise ValueError(
            f"fisher finds no layer of {network.name} outside of its loops; allowed: layers "
            "outside, or Linen's Conv and Dense"
        )
    return found


def _sees_layers(network: Network, inputs: Any) -> bool:
    tapped: list[Path] = []
    rule = _one_tap(jnp.zeros(2), tapped)
    jax.eval_shape(lambda x: network.outputs(network.variables, x, rules=(rule,)), inputs)
    return bool(tapped)


def bind_drawn(space: SearchSpace, key: PRNGKey, gates: Gates) -> Network:
    """Returns the network of an architecture at the key's weights."""
    return bind(space, draw_weights(space, key), gates)
