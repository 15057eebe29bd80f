"""What vision transformers are made of, and what it costs.

Tokens are [n, tokens, features]: the class token first, then the patches by rows. Position and
class token are called "kernel", so that initialisers draw them like kernels: at zero, layer norm's
gradient with respect to the class token would be a thousand times as large.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from saboc_jax.layers.chain import Chain, Link
from saboc_jax.layers.initialise import Initialiser
from saboc_jax.layers.ops import Block, Features, Relu
from saboc_jax.spaces.counting import Count, dense
from saboc_jax.types import Images

Tokens = Float[Array, "n tokens features"]
Grid = tuple[int, int]  # patches in a column and in a row
EPSILON = 1e-6  # of layer norm, as in the papers' codes
SMALLEST_GRID = 4  # patches a side; smaller images have smaller patches


class Transformer(NamedTuple):
    """The layers of equal width that follow each other.

    Attributes:
        features: their width.
        heads: of each layer; they divide the width.
        hidden: width of the hidden layer of each layer's MLP.
    """

    features: int
    heads: tuple[int, ...]
    hidden: tuple[int, ...]


class Constant(nn.Module):
    """A parameter added to or set before tokens: positions, or the class token."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self) -> Array:
        return self.param("kernel", nn.initializers.truncated_normal(0.02), self.shape)


class Attention(nn.Module):
    """Multi-head self-attention."""

    heads: int

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        n, tokens, features = x.shape
        check_heads(features, self.heads)
        each = features // self.heads
        qkv = nn.Dense(3 * features, name="qkv")(x).reshape(n, tokens, 3, self.heads, each)
        queries, keys, values = (qkv[:, :, part] for part in range(3))
        weights = jnp.einsum("nqhf,nkhf->nhqk", queries, keys) * each**-0.5
        y = jnp.einsum("nhqk,nkhf->nqhf", jax.nn.softmax(weights), values)
        return nn.Dense(features, name="projection")(y.reshape(n, tokens, features))


class Gelu(Relu):
    """GELU, a `Relu` to scorers that observe signs: both are above zero where their input is."""

    @nn.compact
    def __call__(self, x: Features) -> Features:
        return nn.gelu(x, approximate=False)


class Layer(nn.Module):
    """Attention and an MLP with GELU, each after a layer norm and with a residual link."""

    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        x = x + Attention(self.heads, name="attention")(nn.LayerNorm(EPSILON, name="norm_a")(x))
        y = nn.Dense(self.hidden, name="hidden")(nn.LayerNorm(EPSILON, name="norm_b")(x))
        y = Gelu(name="gelu")(y[:, :, None])[:, :, 0]  # signs are observed on feature maps
        return x + nn.Dense(x.shape[-1], name="output")(y)


class Stem(nn.Module):
    """Patches by a convolution, positions, the class token.

    Attributes:
        features: width of the tokens.
        patch: side of a patch.
        stride: of the patches.
        places_token: True: the class token has a position too.
    """

    features: int
    patch: int
    stride: int
    places_token: bool

    @nn.compact
    def __call__(self, images: Images) -> Tokens:
        side = (self.patch, self.patch)
        patches = nn.Conv(self.features, side, self.stride, "VALID", name="patches")(images)
        if not self.places_token:
            patches = patches + Constant((1, *patches.shape[1:]), name="positions")()
        x = as_tokens(Constant((1, 1, self.features), name="class_token")(), patches)
        if self.places_token:
            x = x + Constant((1, *x.shape[1:]), name="positions")()
        return x


class Pool(nn.Module):
    """Halves the map by a depthwise convolution; a dense layer for the class token.

    Attributes:
        features: width of its outputs, a multiple of that of its inputs.
        grid: patches of its inputs.
    """

    features: int
    grid: Grid

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        patches = x[:, 1:].reshape(len(x), *self.grid, x.shape[-1])
        padding, groups = ((1, 1), (1, 1)), x.shape[-1]
        conv = nn.Conv(
            self.features, (3, 3), 2, padding, feature_group_count=groups, name="depthwise"
        )
        return as_tokens(nn.Dense(self.features, name="token")(x[:, :1]), conv(patches))


class Head(nn.Module):
    """Layer norm and a dense layer, of the mean of all patches or of the class token.

    Attributes:
        num_classes: width of the outputs.
        grid: patches, of which the mean is taken; None: the class token is read.
    """

    num_classes: int
    grid: Grid | None

    @nn.compact
    def __call__(self, x: Tokens) -> Float[Array, "n classes"]:
        x = nn.LayerNorm(EPSILON, name="norm")(x)
        grid = self.grid or (1, 1)
        x = x[:, 1:] if self.grid else x[:, :1]
        maps = Block(name="features")(x.reshape(len(x), *grid, x.shape[-1]))
        return nn.Dense(self.num_classes, name="classifier")(maps.mean((1, 2)))


class Marked(nn.Module):
    """The identity on tokens; marks some of them, as a feature map, as the output of a block.

    Attributes:
        grid: the patches; (1, 1): the class token, where the classifier reads that.
        label: name of the mark.
    """

    grid: Grid
    label: str

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        n, tokens, features = x.shape
        number = self.grid[0] * self.grid[1]
        first = tokens - number if number > 1 else 0
        marked = x[:, first : first + number].reshape(n, *self.grid, features)
        marked = Block(name=self.label)(marked).reshape(n, -1, features)
        return jnp.concatenate([x[:, :first], marked, x[:, first + number :]], 1)


Part = tuple[str, nn.Module, Grid | None]
"""A name, an unattached module, and what `Marked` takes where its output ends a block."""
PARAMETERS = {
    Stem: ("patches", "positions", "class_token"),
    Layer: ("norm_a", "attention", "norm_b", "hidden", "output"),
    Pool: ("depthwise", "token"),
    Head: ("norm", "classifier"),
}
"""The names of the parameters of each kind of part."""


class TransformerNet(nn.Module):
    """A vision transformer: a plain module, to train or inspect.

    Attributes:
        parts: its parts in order of application.
    """

    parts: tuple[Part, ...]

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Float[Array, "n classes"]:
        x = images
        for name, module, grid in self.parts:
            x = module.clone(parent=self, name=name)(x)
            x = Marked(grid, "output", name=f"{name}_mark")(x) if grid else x
        return x


def as_chain(network: TransformerNet, initialiser: Initialiser) -> Chain:
    """Returns the parts as links, which networks of all architectures share by shape."""
    links = []
    for place, (name, module, _) in enumerate(network.parts):
        paths = tuple((each, (name, each)) for each in PARAMETERS[type(module)])
        links.append(Link(module, module, (place,), paths))
    return Chain(tuple(links), initialiser)


def as_tokens(token: Array, patches: Features) -> Tokens:
    """Returns tokens: the class token [n or 1, 1, c] before patches [n, h, w, c]."""
    n, _, _, features = patches.shape
    token = jnp.broadcast_to(token, (n, 1, features))
    return jnp.concatenate([token, patches.reshape(n, -1, features)], 1)


def check_heads(features: int, heads: int) -> None:
    """Raises ValueError unless the heads divide the width."""
    if features % heads:
        raise ValueError(
            f"{heads} heads do not divide {features} features; allowed: numbers of heads that "
            f"divide, {[h for h in range(1, min(features, 16) + 1) if features % h == 0]}"
        )


def count_layers(layers: Transformer, tokens: int) -> list[Count]:
    """Counts layers; attention's two products are among multiply-accumulates and depth."""
    return [_count(layers.features, hidden, tokens) for hidden in layers.hidden]


def _count(features: int, hidden: int, tokens: int) -> Count:
    norms = Count(2 * 2 * features)
    products = Count(macs=2 * tokens**2 * features, depth=2)
    parts = [(features, 3 * features), (features, features), (features, hidden), (hidden, features)]
    counts = [count_dense(inputs, outputs, tokens) for inputs, outputs in parts]
    return Count(*map(sum, zip(norms, products, *counts, strict=True)))


def count_dense(inputs: int, outputs: int, times: int) -> Count:
    """Counts a dense layer that is applied to several tokens."""
    once = dense(inputs, outputs)
    return once._replace(macs=times * once.macs)
