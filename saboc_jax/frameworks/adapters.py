"""The functions that make candidates of other frameworks' networks.

Each imports its framework when it is called.
"""

from collections.abc import Hashable, Mapping
from typing import Any

from saboc_jax.frameworks.common import CHANNELS_FIRST
from saboc_jax.ntk.network import Network


def from_equinox(
    given: Any, *, layout: str = CHANNELS_FIRST, axis_name: Hashable = "batch"
) -> Network:
    """Returns an Equinox network as a candidate.

    Args:
        given: a module, or a pair (module, state), is scored at its own weights; a function
            `make(key)` of one of these at fresh weights for every key. The module takes one
            example, and the state if there is one, and gives k outputs (and the state).
        layout: "NCHW" turns images to [channels, height, width], as Equinox's layers take them;
            "NHWC" leaves them [height, width, channels].
        axis_name: the name of the axis of examples; batch norms say theirs themselves.

    Returns:
        A network with "params", and "batch_stats" if it has a state of floating-point numbers.

    Raises:
        MissingExtraError: if Equinox is not installed.
        ValueError: if it is none of these, or has no parameters.

    Examples:
        >>> import equinox as eqx, jax, saboc_jax as sj
        >>> linear = eqx.nn.Linear(3, 2, key=jax.random.key(0))
        >>> sj.empirical_ntk(sj.from_equinox(linear), jax.numpy.eye(3)).shape
        (3, 3)
    """
    from saboc_jax.frameworks.equinox import network_of

    return network_of(given, layout, axis_name)


def from_haiku(
    transformed: Any,
    params: Any = None,
    state: Any = None,
    *,
    call: Mapping[str, Any] | None = None,
    rng: Any = None,
) -> Network:
    """Returns a transformed Haiku function as a candidate.

    Args:
        transformed: the pair; the function takes a batch, images as [n, height, width, channels].
        params: it is scored at these weights. None: at fresh ones of its own initialisers for
            every key.
        state: the state beside `params`.
        call: keyword arguments of every call; flags of its mode are set over them.
        rng: a key for what is random in evaluation mode, too.

    Returns:
        A network with "params", and "batch_stats" if it has a state.

    Raises:
        MissingExtraError: if Haiku is not installed.
        ValueError: if it is no such pair, has no parameters, or a state is missing.

    Examples:
        >>> import haiku as hk, jax, saboc_jax as sj
        >>> net = hk.without_apply_rng(hk.transform(lambda x: hk.Linear(2)(x)))
        >>> network = sj.from_haiku(net)
        >>> sj.empirical_ntk(network, jax.numpy.eye(3), key=jax.random.key(0)).shape
        (3, 3)
    """
    from saboc_jax.frameworks.haiku import network_of

    return network_of(transformed, params, state, call, rng)


def from_keras(given: Any) -> Network:
    """Returns a Keras 3 model as a candidate.

    Args:
        given: a built model is scored at its own weights; a function without arguments that
            makes one at fresh weights for every key: each variable's initialiser is called with
            the key folded by the variable's number, in place of its seed. Neither the model nor a
            global seed changes. Images are [n, height, width, channels].

    Returns:
        A network with "params" (the trainable variables), "batch_stats" and "buffers".

    Raises:
        MissingExtraError: if Keras is not installed.
        ValueError: if it is nothing of these, is not built, has no trainable variables, or Keras
            runs on another backend than JAX.

    Examples:
        >>> import keras, jax, saboc_jax as sj
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> sj.empirical_ntk(sj.from_keras(model), jax.numpy.eye(3)).shape
        (3, 3)
    """
    from saboc_jax.frameworks.keras import network_of

    return network_of(given)


def from_torch(given: Any, *, layout: str = CHANNELS_FIRST) -> Network:
    """Returns a PyTorch module as a candidate.

    Args:
        given: a module is scored at its own weights; a function without arguments that makes
            one, e.g. `lambda: timm.create_model("resnet18")`, at fresh weights for every key: it
            is called under a forked generator of the CPU that is seeded by 64 bits of the key,
            `jax.random.bits(key, (2,), "uint32")`, the first word the high one. Neither the
            module nor a global generator changes.
        layout: "NCHW" turns images to [n, channels, height, width], as PyTorch's layers take
            them; "NHWC" leaves them [n, height, width, channels].

    Returns:
        A network with "params" (those that require a gradient), "batch_stats" and "buffers".

    Raises:
        MissingExtraError: if PyTorch or torchax is not installed.
        ImportError: if the two do not fit each other.
        ValueError: if it is nothing of these, or has no parameters.

    Examples:
        >>> import torch, jax, saboc_jax as sj
        >>> network = sj.from_torch(torch.nn.Linear(3, 2))
        >>> sj.empirical_ntk(network, jax.numpy.eye(3)).shape
        (3, 3)
    """
    from saboc_jax.frameworks.torch import network_of

    return network_of(given, layout)
