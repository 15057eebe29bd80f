"""What adapters share: the layout of images, collections, refusals."""

import threading
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

# PyTorch and Keras hold arrays in their modules while they run, and draw by one global generator.
# A program's callbacks come from other threads: several at once would read each other's.
ONE_THREAD = threading.RLock()
BUFFERS = "buffers"
CHANNELS_FIRST, CHANNELS_LAST = "NCHW", "NHWC"


def check_layout(layout: str) -> bool:
    """Returns whether images are turned to [n, channels, height, width].

    Raises:
        ValueError: if there is no such layout.
    """
    if layout not in (CHANNELS_FIRST, CHANNELS_LAST):
        raise ValueError(
            f"layout={layout!r}; allowed: {CHANNELS_FIRST!r} (images are turned to [n, channels, "
            f"height, width]) or {CHANNELS_LAST!r} (they stay)"
        )
    return layout == CHANNELS_FIRST


def turned(inputs: Any) -> Any:
    """Returns inputs with images [n, height, width, channels] as [n, channels, height, width]."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, -1, 1) if jnp.ndim(x) == 4 else x, inputs)


def refuse(given: Any, allowed: str) -> ValueError:
    """Returns the error of an argument that is not what an adapter takes."""
    what = given.__name__ if isinstance(given, type) else type(given).__name__
    kind = "the class" if isinstance(given, type) else "a"
    return ValueError(f"the network is {kind} {what}; allowed: {allowed}")


def with_collections(**collections: Mapping[str, Any]) -> dict[str, Any]:
    """Returns variables without the collections that are empty."""
    return {name: dict(tree) for name, tree in collections.items() if tree or name == "params"}


def check_has_parameters(params: Any, name: str) -> None:
    """Raises ValueError if a network has nothing to train."""
    if not jax.tree.leaves(params):
        raise ValueError(f"{name} has no parameters that are trained; allowed: one or more")
