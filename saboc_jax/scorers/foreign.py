"""What scorers read inside a network that marks nothing: feature maps, blocks, layers.

Our own spaces mark them with `layers.ops.Block` and are made of Linen's layers. In any other
network they are found in its program (`layers.landmarks`): the last feature map before pooling,
residual additions, and products with parameters.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from saboc_jax.keys import key_numbered
from saboc_jax.layers import landmarks
from saboc_jax.layers.jaxpr import EXAMPLE, PARAMETER
from saboc_jax.layers.landmarks import Landmarks
from saboc_jax.layers.tree import flatten
from saboc_jax.ntk.batches import leading, number_of, one_more
from saboc_jax.ntk.network import STATISTICS, Network, with_batch_statistics
from saboc_jax.types import PRNGKey

VARIANCES = ("var", "variance", "running_var", "moving_variance")  # names in running statistics
Blocks = Sequence[Float[Array, "n h w c"]]


def read(network: Network, inputs: Any) -> Landmarks:
    """Returns the landmarks of a network in train mode; arguments: (variables, inputs)."""
    plain = network._replace(forward_mode=True)  # convolutions as they are, not as fast rules
    return landmarks.read(plain.outputs, (PARAMETER, EXAMPLE), network.variables, inputs)


def check_drawable(inputs: Any, scorer: str) -> None:
    """Raises ValueError unless the inputs are one array of floats, which noise can stand for."""
    leaves = jax.tree.leaves(inputs)
    kinds = [str(leaf.dtype) for leaf in leaves]
    if len(leaves) != 1 or not jnp.issubdtype(leaves[0].dtype, jnp.floating):
        raise ValueError(
            f"{scorer} feeds noise to the network, which cannot stand for inputs of type "
            f"{', '.join(kinds)}; allowed: one array of floats"
        )


def last_features(network: Network, inputs: Any) -> tuple[Array, Array]:
    """Returns (the last feature map before pooling, the outputs) of one batch in train mode.

    Raises:
        ValueError: if nothing has examples, positions and channels.
    """
    found, _, outputs = _last_map(network, inputs)
    return found, outputs


def pooled_features(network: Network, inputs: Any) -> tuple[Float[Array, "n d"], Array]:
    """Returns (the mean over positions of the last feature map, the outputs) of one batch.

    Raises:
        ValueError: if nothing has examples, positions and channels.
    """
    found, channels, outputs = _last_map(network, inputs)
    return as_image(found, channels).mean((1, 2)), outputs


def _last_map(network: Network, inputs: Any) -> tuple[Array, int, Array]:
    marks = read(network, inputs)
    place = marks.features()
    if place is None:
        raise ValueError(
            f"{network.name} has no feature map, that is an array with examples, positions and "
            "channels that its outputs are computed from; allowed: one"
        )
    values = landmarks.run(marks, jax.tree.leaves((network.variables, inputs)), {})
    return values[place], marks.channel_axis(place), values[marks.program.outputs[0]]


def batch_variances(network: Network, inputs: Any) -> list[Float[Array, ""]]:
    """Returns the mean variance of the batch at every batch norm with running statistics.

    Raises:
        ValueError: if the statistics have no name that says which are variances.
    """
    at_batch = with_batch_statistics(network, inputs)
    statistics = flatten(at_batch.variables.get(STATISTICS, {}))
    found = [leaf.mean() for path, leaf in statistics.items() if path[-1] in VARIANCES]
    if statistics and not found:
        raise ValueError(
            f"the running statistics of {network.name} are named "
            f"{', '.join(sorted({path[-1] for path in statistics}))}; allowed: variances named "
            f"{', '.join(VARIANCES)}"
        )
    return found


# --- blocks ---------------------------------------------------------------------------------------


def block_places(network: Network, marks: Landmarks) -> list[int]:
    """Returns where the stem and every residual addition give their feature maps, in order.

    Raises:
        ValueError: if there are fewer than two.
    """
    sums = marks.residual_sums()
    places = [place for place, _ in sums]
    if sums:
        stem = min(sums[0][1], key=marks.position)
        places = [stem, *places] if marks.position(stem) >= 0 else places
    if len(places) < 2:
        raise ValueError(
            f"{network.name} has {len(places)} block outputs; allowed: 2 or more, which are "
            "residual additions of feature maps, or Linen modules `saboc_jax.layers.ops.Block` "
            "after the stem and after each block"
        )
    return places


def as_image(y: Array, channels: int) -> Float[Array, "n h w c"]:
    """Returns a feature map with channels last and two axes of positions."""
    y = jnp.moveaxis(y, channels, -1)
    return y.reshape(y.shape[0], y.shape[1], -1, y.shape[-1])


def run_blocks(
    network: Network,
    inputs: Any,
    key: PRNGKey,
    cut: Callable[..., Array],
) -> tuple[Blocks, Blocks, Blocks, Array]:
    """Returns (outputs of blocks, signs, what the next block pulls back, the network's outputs).

    Args:
        network: in train mode.
        inputs: one batch.
        key: draws random signs for every element of every block's output; consumed.
        cut: `cut(y, tap, signs)`, see `az_nas.cut`.
    """
    marks = read(network, inputs)
    places = block_places(network, marks)
    axes = [marks.channel_axis(place) for place in places]
    shapes = [marks.program.shapes[place] for place in places]
    signs = [random_signs(key_numbered(key, i), shape) for i, shape in enumerate(shapes)]
    leaves = jax.tree.leaves((network.variables, inputs))

    def forward(taps: list[Array]) -> tuple[Array, list[Array]]:
        changes: dict[int, Callable[[Array], Array]] = {
            place: partial(cut, tap=tap, signs=sign)
            for place, tap, sign in zip(places, taps, signs, strict=True)
        }
        values = landmarks.run(marks, leaves, changes)
        return values[marks.program.outputs[0]], [values[place] for place in places]

    taps = [jnp.zeros_like(sign) for sign in signs]
    outputs, pull, seen = jax.vjp(forward, taps, has_aux=True)
    pulled = pull(jnp.zeros_like(outputs))[0]  # every block emits a cotangent of its own
    blocks = [
        [as_image(*pair) for pair in zip(e, axes, strict=True)] for e in (seen, signs, pulled)
    ]
    return blocks[0], blocks[1], blocks[2], outputs


def random_signs(key: PRNGKey, like: Any) -> Array:
    """Draws 1 or -1 for every element of an array like this; `key` is consumed."""
    drawn = jax.random.bernoulli(key, jnp.float32(0.5), like.shape)  # the same in any type
    return 2 * drawn.astype(like.dtype) - 1


# --- layers ---------------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def fisher_tap(
    example: int, channels: tuple[int, ...], fan_in: int, y: Array, tap: Float[Array, "2"]
) -> Array:
    """Returns y; the cotangent of `tap` is Fisher's information, see `LayerStatistics.fisher`."""
    return y


def _tap_forward(
    example: int, channels: tuple[int, ...], fan_in: int, y: Array, tap: Array
) -> tuple[Array, Any]:
    return y, (y, tap)


def _tap_backward(
    example: int, channels: tuple[int, ...], fan_in: int, saved: Any, g: Array
) -> tuple[Array, Array]:
    y, tap = saved
    positions = tuple(axis for axis in range(y.ndim) if axis not in (example, *channels))
    inner = (y * g).sum(positions, keepdims=True)
    total = 0.5 * jnp.square(inner).mean(example).sum()
    return g, jnp.stack([total * fan_in, total]).astype(tap.dtype)


fisher_tap.defvjp(_tap_forward, _tap_backward)


def fisher_information(
    network: Network, inputs: Any, loss: Callable[[Array], Float[Array, ""]]
) -> Float[Array, "2"] | None:
    """Returns `LayerStatistics.fisher` of a network's layers; None: some lie in loops.

    Args:
        network: in train mode.
        inputs: one batch.
        loss: of the outputs.

    Raises:
        ValueError: if a layer's output has no axis for the examples alone.
    """
    marks = read(network, inputs)
    if marks.hides_layers():
        return None
    n, layers = number_of(inputs), marks.layers()
    shapes = [marks.shape(layer.output) for layer in layers]
    others = read(network, one_more(inputs))
    axes = landmarks.example_axes(
        shapes, [others.shape(layer.output) for layer in others.layers()], n, n + 1
    )
    leaves = jax.tree.leaves((network.variables, inputs))

    def total(tap: Array) -> Array:
        changes: dict[int, Callable[[Array], Array]] = {
            layer.output: partial(fisher_tap, axis, layer.channels, layer.fan_in, tap=tap)
            for layer, axis in zip(layers, axes, strict=True)
        }
        values = landmarks.run(marks, leaves, changes)
        return loss(values[marks.program.outputs[0]])

    dtype = jnp.result_type(*jax.tree.leaves(network.variables["params"]))
    return jax.grad(total)(jnp.zeros(2, dtype))


def one_example(inputs: Any) -> Any:
    """Returns the shapes of a batch of one."""
    return jax.eval_shape(partial(leading, number=1), inputs)
