"""AZ-NAS: four scores from one forward and one backward pass on noise.

Lee, Ham (2024), "AZ-NAS: Assembling Zero-Cost Proxies for Network Architecture Search". With
F_0 the stem's output and F_1 ... F_L the outputs of the cells and reductions (in a network of
another origin, of its residual additions):

    expressivity: sum over l of S_l, the entropy of the normalised eigenvalues of the channels'
        covariance of F_l.
    progressivity: min over l of S_l - S_(l-1).
    trainability: mean over l of 2 - s - 1 / s, where s is the largest singular value of
        G_in' G_out / positions, G_out is a random sign for every element of F_l, and G_in is its
        pull-back to F_(l-1). It is best at s = 1: gradients neither grow nor shrink.
    complexity: multiply-accumulates.

`ranking.log_rank` ranks them together.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from saboc_jax.keys import Purpose, key_for, key_numbered
from saboc_jax.layers.interceptors import Interceptor, is_call
from saboc_jax.layers.ops import BLOCK_INPUTS, Block
from saboc_jax.layers.program_cost import count_work
from saboc_jax.layers.tree import Path, flatten, nested
from saboc_jax.ntk.network import Network, bind, soundness
from saboc_jax.precision import inner_products
from saboc_jax.scorers import foreign
from saboc_jax.scorers.activations import check_init, cost_rule, layer_costs, put, record, redraw
from saboc_jax.types import (
    Batch,
    Diagnostics,
    Gates,
    Images,
    Passes,
    PRNGKey,
    Scorer,
    SearchSpace,
    Variables,
)

METRICS = ("expressivity", "progressivity", "trainability", "complexity")
HEAD = "features"  # the only block that is not a stem, cell or reduction
Signs = Mapping[Path, Float[Array, "..."]]  # by path of a block, stacked like its output


class BlockStatistics(NamedTuple):
    """The statistics that AZ-NAS reads from a network; blocks in the order of the network.

    Attributes:
        covariances: channel covariances of every block's output, [channels, channels].
        maps: G_in' G_out / positions of every block but the first, [rows, channels].
        identical: [blocks - 1] is G_in equal to G_out?
        costs: [layers, 2], see `activations.layer_costs`.
    """

    covariances: tuple[Float[Array, "c c"], ...]
    maps: tuple[Float[Array, "rows columns"], ...]
    identical: Bool[Array, " blocks"]
    costs: Float[Array, "layers 2"]


@jax.custom_vjp
def cut(x: Array, tap: Array, signs: Array) -> Array:
    """The identity in x; its reverse rule gives the cotangent to `tap` and `signs` to x."""
    return x


def _cut_forward(x: Array, tap: Array, signs: Array) -> tuple[Array, Array]:
    return x, signs


def _cut_backward(signs: Array, g: Array) -> tuple[Array, Array, Array]:
    return signs, g, jnp.zeros_like(signs)


cut.defvjp(_cut_forward, _cut_backward)


def covariance(x: Float[Array, "n h w c"]) -> Float[Array, "c c"]:
    """Computes the channel covariance over all positions of all images."""
    rows = x.reshape(-1, x.shape[-1])
    rows = rows - rows.mean(0)
    return inner_products(rows.T, rows.T) / rows.shape[0]


def _block_rule(
    name: str, measure: Callable[[Array], Array], order: dict[Path, None]
) -> Interceptor:
    """Returns a rule that records `measure(output)` and order of blocks, and cuts gradients."""

    def rule(next_fun: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        y, module = next_fun(*args, **kwargs), context.module
        if not is_call(context, Block) or module.name == HEAD:
            return y
        order[module.path] = None
        put(module, name, measure(y), lambda old, new: new)
        if module.has_variable(BLOCK_INPUTS, "tap"):
            tap, signs = (module.get_variable(BLOCK_INPUTS, key) for key in ("tap", "signs"))
            y = cut(y, tap, signs)
        return y

    return rule


def marked_blocks(network: Network, images: Images) -> tuple[dict[Path, None], dict[Path, Any]]:
    """Returns the paths of a network's `Block`s in order, and the shapes of what they record."""
    order: dict[Path, None] = {}
    rule = _block_rule("output", lambda y: y, order)
    return order, flatten(jax.eval_shape(lambda x: record(network, x, rule)[1], images))


def draw_signs(network: Network, images: Images, key: PRNGKey) -> dict[Path, Array]:
    """Draws random signs for every element of every block's output. `key` is consumed.

    Raises:
        ValueError: if the network marks fewer than two blocks.
    """
    order, shapes = marked_blocks(network, images)
    if len(order) < 2:
        raise ValueError(
            f"the network marks {len(order)} block outputs; allowed: 2 or more Linen modules "
            "`saboc_jax.layers.ops.Block`, after the stem and after each block"
        )

    return {
        path: foreign.random_signs(key_numbered(key, index), shapes[*path, "output"])
        for index, path in enumerate(order)
    }


def gradient_map(
    g_in: Float[Array, "n H W c_in"], g_out: Float[Array, "n h w c"]
) -> tuple[Float[Array, "rows c"], Bool[Array, ""]]:
    """Returns (G_in' G_out / positions, are G_in and G_out equal?).

    If the block halves the image, the pixels of G_in that one pixel of G_out covers become
    channels.
    """
    n, height, width, channels = g_out.shape
    if g_in.shape == g_out.shape:
        same = (g_in == g_out).all()
    else:
        same = jnp.array(False)
        if g_in.shape[1] % height or g_in.shape[2] % width:
            raise ValueError(
                f"a block turns maps of {g_in.shape[1:3]} positions into {(height, width)}; "
                "allowed for az_nas: sizes that divide"
            )
        rows, columns = g_in.shape[1] // height, g_in.shape[2] // width
        g_in = g_in.reshape(n, height, rows, width, columns, -1).transpose(0, 1, 3, 2, 4, 5)
    left, right = g_in.reshape(n * height * width, -1), g_out.reshape(-1, channels)
    return inner_products(left.T, right.T) / left.shape[0], same


def block_statistics(network: Network, images: Images, signs: Signs) -> BlockStatistics:
    """Runs one forward and one backward pass with train-mode batch norm.

    Args:
        network: at fixed weights.
        images: the input (noise in the paper).
        signs: see `draw_signs`.
    """
    order: dict[Path, None] = {}
    rules = _block_rule("covariance", covariance, order), cost_rule()

    def run(taps: Mapping[Path, Array]) -> tuple[Array, Variables]:
        inputs = {(*path, "tap"): tap for path, tap in taps.items()}
        inputs |= {(*path, "signs"): sign for path, sign in signs.items()}
        variables = {**network.variables, BLOCK_INPUTS: nested(inputs)}
        return record(network._replace(variables=variables), images, *rules)

    taps = {path: jnp.zeros_like(sign) for path, sign in signs.items()}
    outputs, pull, observed = jax.vjp(run, taps, has_aux=True)
    # Every block emits its own cotangent, so the cotangent of the outputs does not matter.
    g_in, g_out = unstacked(pull(jnp.zeros_like(outputs))[0], order), unstacked(signs, order)
    pairs = [gradient_map(g, out) for g, out in zip(g_in[:-1], g_out[1:], strict=True)]
    leaves, sound = flatten(observed), soundness(outputs)
    squares = [sound * leaves[*path, "covariance"] for path in order]
    return BlockStatistics(
        tuple(one for stack in squares for one in stack.reshape(-1, *stack.shape[-2:])),
        tuple(sound * matrix for matrix, _ in pairs),
        jnp.array([same for _, same in pairs], bool),
        sound * layer_costs(observed),
    )


def foreign_statistics(network: Network, images: Images, key: PRNGKey) -> BlockStatistics:
    """Returns the statistics of a network that marks no block: of its residual additions.

    Args:
        network: at fixed weights.
        images: the input (noise in the paper).
        key: draws the signs; consumed.

    Raises:
        ValueError: if there are fewer than two blocks, or sizes of positions do not divide.
    """
    blocks, g_out, g_in, outputs = foreign.run_blocks(network, images, key, cut)
    pairs = [gradient_map(a, b) for a, b in zip(g_in[:-1], g_out[1:], strict=True)]
    sound = soundness(outputs)
    work = count_work(network.outputs, network.variables, foreign.one_example(images))
    size = sum(leaf.size for leaf in jax.tree.leaves(network.variables["params"]))
    return BlockStatistics(
        tuple(sound * covariance(block) for block in blocks),
        tuple(sound * matrix for matrix, _ in pairs),
        jnp.array([same for _, same in pairs], bool),
        sound * jnp.array([[work.macs, size]], jnp.float32),
    )


def unstacked(leaves: Mapping[Path, Array], order: Mapping[Path, None]) -> list[Array]:
    """Splits (stacked) leaves [cells, n, h, w, c] into [n, h, w, c] of all blocks in order."""
    return [one for path in order for one in leaves[path].reshape(-1, *leaves[path].shape[-4:])]


def entropy(matrix: Float[Array, "c c"]) -> Float[Array, ""]:
    """Returns -sum p log(p + 1e-8) over the eigenvalues p, normalised to sum 1."""
    values = jnp.linalg.eigvalsh(matrix)
    p = values / values.sum()
    return -(p * jnp.log(p + 1e-8)).sum()


def expressivity(statistics: BlockStatistics) -> Float[Array, ""]:
    """The sum of the blocks' entropies."""
    return sum(map(entropy, statistics.covariances), jnp.array(0.0))


def progressivity(statistics: BlockStatistics) -> Float[Array, ""]:
    """The smallest growth of the entropy from block to block."""
    return jnp.diff(jnp.stack([entropy(c) for c in statistics.covariances])).min()


def trainability(statistics: BlockStatistics) -> Float[Array, ""]:
    """Mean of 2 - s - 1 / s; minus infinity if a block leaves its cotangent unchanged."""
    largest = jnp.stack([jnp.linalg.svd(m, compute_uv=False)[0] for m in statistics.maps])
    terms = 2 - largest - 1 / (largest + 1e-6)
    return jnp.where(statistics.identical, -jnp.inf, terms).mean()


def complexity(statistics: BlockStatistics) -> Float[Array, ""]:
    """Multiply-accumulates for one image."""
    return statistics.costs[:, 0].sum()


@dataclass(frozen=True)
class NoiseStatistics:
    """Observable: `block_statistics` for Gaussian inputs of the training images' shape."""

    space: SearchSpace
    init: str | None

    def __call__(self, key: PRNGKey, gates: Gates, batch: Batch) -> BlockStatistics:
        """Draws inputs and signs from the key."""
        foreign.check_drawable(batch.images, "az_nas")
        network = bind(self.space, redraw(self.space, key, self.init), gates)
        images = jax.random.normal(
            key_for(key, Purpose.AZ_NAS_INPUTS), batch.images.shape, batch.images.dtype
        )
        own_key = key_for(key, Purpose.AZ_NAS_SIGNS)
        if not network.known_layers and not marked_blocks(network, images)[0]:
            return foreign_statistics(network, images, own_key)
        signs = draw_signs(network, images, own_key)
        return block_statistics(network, images, signs)


def az_nas(space: SearchSpace, *, init: str | None = "kaiming_normal_fan_in") -> Scorer:
    """AZ-NAS's four scores; higher is better for all. It reads only the shape of the batch.

    NaN becomes minus infinity, and a network with an identity cell gets a trainability of minus
    infinity, both as in the released code.

    Args:
        space: the search space.
        init: a name in `saboc_jax.layers.initialise.INITIALISERS`; None: the space's own.

    Raises:
        ValueError: if the initialiser is unknown.
    """

    def finish(
        observed: Mapping[str, Any], gates: Gates, batch: Batch
    ) -> tuple[Float[Array, "4"], Diagnostics]:
        blocks = observed["blocks"]
        scores = jnp.stack(
            [expressivity(blocks), progressivity(blocks), trainability(blocks), complexity(blocks)]
        )
        return jnp.where(jnp.isnan(scores), -jnp.inf, scores), {}

    return Scorer(
        name="az_nas",
        metrics=METRICS,
        higher_is_better=(True,) * 4,
        needs=frozenset({"images"}),
        passes=Passes(1, 1),
        observables={"blocks": NoiseStatistics(space, check_init(init))},
        finish=finish,
        options={"init": init},
    )
