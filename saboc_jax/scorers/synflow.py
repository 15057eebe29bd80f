"""SynFlow: the synaptic flow without data (Tanaka et al. 2020, "SynFlow").

Batch norm becomes the identity, every parameter its absolute value, and the input an image of ones.
R is the sum of outputs and

    score = sum_w |w dR/dw|

over the kernels of convolutions and dense layers. As a proxy: Abdelfattah et al. 2021,
"Zero-Cost Proxies for Lightweight NAS".

R grows exponentially with depth and overflows float32 in networks of ordinary size. So the default
is the logarithm of the score, which ranks equally and is computed without R, in one of two ways:

    blocks: at the output of every block (`ops.Block`) the features are divided by s, a power of
        their maximum. If every path passes through every block, and no layer between the first
        block and the last layer has a bias, all later features scale equally. The true gradient
        is then the rescaled network's gradient times the product of all s:
        log score = sum log s + log sum |w dR'/dw|, for any depth.
    ends: by definition; or, if that overflows, with the input, the biases and the output's gradient
        divided by 1e30. Valid for every network of convolutions, ReLU and pooling, for scores up
        to about 1e60 in float32.

"blocks" is computed with two powers; it is valid if both agree. All passes are of one image.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float

from saboc_jax.layers.chain import Chain, Link
from saboc_jax.layers.interceptors import Interceptor, is_call, is_own
from saboc_jax.layers.links import outputs_of, run_backward, run_forward
from saboc_jax.layers.ops import Block
from saboc_jax.layers.programs import ProgramCache
from saboc_jax.layers.tree import flatten, path_names
from saboc_jax.ntk.network import Network, split_parameters
from saboc_jax.scorers.loss_gradients import bind_drawn, is_kernel, kernel_predicate
from saboc_jax.scorers.observables import Linked
from saboc_jax.scorers.single import check_choice, single_metric
from saboc_jax.types import Batch, Diagnostics, Gates, Passes, PRNGKey, Scorer, SearchSpace

VARIANTS = ("log", "plain")
# (power of a block's maximum, unit of the ends): "blocks" twice, then "ends" twice.
SCALINGS = ((1.0, 1.0), (0.5, 1.0), (0.0, 1.0), (0.0, 1e-30))
AGREEMENT = 1e-3  # tolerance for the two logarithms; rounding is a hundred times smaller


@jax.custom_vjp
def _rescaled(x: Array, power: Float[Array, ""], tap: Float[Array, ""]) -> Array:
    """Divides by a constant power of the maximum; the cotangent of `tap` is its logarithm."""
    return x / _scale(x, power)


def _scale(x: Array, power: Array) -> Float[Array, ""]:
    largest = x.max()
    return jnp.where(largest > 0, largest, 1.0) ** power


def _rescaled_forward(x: Array, power: Array, tap: Array) -> tuple[Array, Any]:
    scale = _scale(x, power)
    return x / scale, (scale, power, tap)


def _rescaled_backward(saved: Any, g: Array) -> tuple[Array, Array, Array]:
    scale, power, tap = saved  # features can have another dtype than the weights
    return g / scale, jnp.zeros_like(power), jnp.log(scale).astype(tap.dtype)


_rescaled.defvjp(_rescaled_forward, _rescaled_backward)


def _without_norm(next_fun: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    """Replaces batch norm by the identity."""
    own = is_call(context, nn.BatchNorm) and is_own(context, nn.BatchNorm)
    return args[0] if own else next_fun(*args, **kwargs)


def _rescale_rule(power: Float[Array, ""], tap: Float[Array, ""]) -> Interceptor:
    """Returns an interceptor that rescales the output of every block."""

    def rule(next_fun: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        y = next_fun(*args, **kwargs)
        return _rescaled(y, power, tap) if is_call(context, Block) else y

    return rule


def _flowing(params: Any, unit: Any) -> Any:
    """Returns the absolute values of parameters, biases times the unit."""

    def prepare(path: Any, leaf: Array) -> Array:
        return jnp.abs(leaf) * (unit if path_names(path)[-1] == "bias" else 1.0)

    return jax.tree_util.tree_map_with_path(prepare, params)


def synaptic_flow(
    network: Network, image_shape: tuple[int, ...], power: Any = 0.0, unit: Any = 1.0
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns (f, l); f * exp(l) is the SynFlow score if the scaling is valid.

    Args:
        network: this function takes the absolute values of its parameters.
        image_shape: (height, width, channels).
        power: every block is divided by this power of its maximum.
        unit: the scale of the input, the biases and the output's gradient.
    """
    params = _flowing(network.variables["params"], unit)
    example = jnp.zeros((1, *image_shape), jax.tree.leaves(params)[0].dtype)
    kernels, restore = split_parameters(params, kernel_predicate(network, example))
    dtype = jnp.result_type(*kernels)
    power, unit = jnp.asarray(power, dtype), jnp.asarray(unit, dtype)
    images = jnp.broadcast_to(unit, (1, *image_shape))

    def total(kernels: list[Array], tap: Array) -> Array:
        variables = {**network.variables, "params": restore(kernels)}
        rules = (_rescale_rule(power, tap), _without_norm)
        return network.outputs(variables, images, "stored", rules).sum() * unit

    gradients, log_scale = jax.grad(total, (0, 1))(kernels, jnp.zeros((), dtype))
    # The absolute value matters where layer norm or softmax make a gradient negative.
    flow: Any = sum(jnp.abs(w * g).sum() for w, g in zip(kernels, gradients, strict=True))
    return flow, log_scale - 2 * jnp.log(unit)


def synaptic_flows(
    network: Network, image_shape: tuple[int, ...]
) -> tuple[Float[Array, "4"], Float[Array, "4"]]:
    """Computes `synaptic_flow` with each of `SCALINGS`."""
    dtype = jnp.result_type(*jax.tree.leaves(network.variables["params"]))
    scalings = jnp.asarray(np.array(SCALINGS), dtype)
    return lax.map(lambda s: synaptic_flow(network, image_shape, s[0], s[1]), scalings)


def synflow_value(
    network: Network, image_shape: tuple[int, ...], variant: str = "log"
) -> Float[Array, ""]:
    """Returns SynFlow of a network at its weights.

    Args:
        network: at fixed weights.
        image_shape: (height, width, channels).
        variant: "log"; or "plain", by definition and without scaling, which overflows float32
            in networks of ordinary size.

    Raises:
        ValueError: if the variant does not exist.
    """
    if check_choice("variant", variant, VARIANTS) == "plain":
        return synaptic_flow(network, image_shape)[0]
    return log_score(*synaptic_flows(network, image_shape))[0]


def log_score(
    flows: Float[Array, "4"], log_scales: Float[Array, "4"]
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """Returns the logarithm of the score, and whether "blocks" is valid."""
    logs = jnp.log(flows) + log_scales
    blocks = jnp.abs(logs[0] - logs[1]) < AGREEMENT
    ends = jnp.where(jnp.isfinite(logs[2]), logs[2], logs[3])
    return jnp.where(blocks, logs[0], ends), blocks


def linked_flows(
    chain: Chain, pieces: ProgramCache, key: PRNGKey, image_shape: tuple[int, ...]
) -> tuple[Float[Array, "4"], Float[Array, "4"]]:
    """Computes the "ends" of `synaptic_flows` link by link; "blocks", which are none, are NaN.

    Args:
        chain: the network.
        pieces: the cache of compiled links.
        key: seeds the weights.
        image_shape: (height, width, channels).
    """
    flows, logs = np.full(4, np.nan), np.zeros(4)
    for place, (_, unit) in list(enumerate(SCALINGS))[2:]:
        images, name = jnp.full((1, *image_shape), unit), ("flow", unit)
        run = partial(_link_outputs, unit)
        last, saved = run_forward(chain, pieces, key, images, run, *name)
        ends, pull = jnp.full_like(last, unit), partial(_link_flow, unit)
        found = run_backward(chain, pieces, saved, ends, pull, *name, "back")[1]
        flows[place], logs[place] = jnp.stack(found).sum(), -2 * math.log(unit)
        if 0 < flows[place] < np.inf:
            break  # else the smaller unit may not overflow
    return jnp.asarray(flows), jnp.asarray(logs)


def _link_outputs(unit: float, link: Link, params: Any, *xs: Array) -> Array:
    return outputs_of(link, _flowing(params, unit), *xs, rules=(_without_norm,))


def _link_flow(
    unit: float, link: Link, params: Any, xs: tuple[Array, ...], g: Array
) -> tuple[tuple[Array, ...], Array]:
    """Returns (cotangents of the inputs, the flow through the link's kernels)."""
    pull = jax.vjp(lambda params, xs: _link_outputs(unit, link, params, *xs), params, xs)[1]
    gradients, back = pull(g)
    w, own = flatten(params), flatten(gradients)
    flow = [jnp.abs(w[path] * own[path]).sum() for path in w if is_kernel(path)]
    return back, sum(flow, jnp.zeros((), g.dtype))


@dataclass(frozen=True)
class SynapticFlows(Linked):
    """Observable: `synaptic_flows` at the key's weights."""

    def __call__(self, key: PRNGKey, gates: Gates, batch: Batch) -> tuple[Array, Array]:
        """Runs one to four forward and backward passes of one image."""
        shape = self.space.image_shape
        links = self.links(key)
        if links is not None:
            flows, logs = linked_flows(*links, shape)
            if jnp.isfinite(jnp.log(flows[2:])).any():  # else only "blocks" can be valid
                return flows, logs
        return synaptic_flows(bind_drawn(self.space, key, gates), shape)


def synflow(space: SearchSpace, *, variant: str = "log") -> Scorer:
    """SynFlow; higher is better. Reads no images.

    Args:
        space: the search space.
        variant: "log"; or "plain", its exponential, computed in `finish`: in float64 up to 1e308.

    Raises:
        ValueError: if the variant does not exist.
    """
    check_choice("variant", variant, VARIANTS)

    def finish(flows: tuple[Array, Array], batch: Batch) -> tuple[Array, Diagnostics]:
        value, blocks = log_score(*flows)
        return value if variant == "log" else jnp.exp(value), {"blocks": blocks}

    return single_metric(
        "synflow",
        SynapticFlows(space),
        finish,
        needs=(),
        passes=Passes(4, 4),  # of one image each
        options={"variant": variant},
    )
