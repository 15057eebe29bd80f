"""Products J J' C of a network's Jacobian J, a chunk of examples at a time.

A product has two halves: J' C adds up over chunks, then every chunk has its rows of J (J' C). There
are two ways for b columns:

    passes: b backward passes, then b forward-mode passes, of one linearisation. With F
        multiply-accumulates of one example's outputs that is about 2 F + 4 F b for an example.
    gradients: the gradients of every example's k outputs, twice, each time multiplied with the
        block: 2 F + 4 F k + 2 P k b with P parameters. It needs memory for chunk k P numbers.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from saboc_jax.layers.programs import signature_of
from saboc_jax.ntk.compute import prepare
from saboc_jax.ntk.functions import Function, network_function
from saboc_jax.ntk.jacobian import passes_at_once
from saboc_jax.ntk.memory import needed_bytes
from saboc_jax.ntk.network import Network, Template
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.precision import PRECISION, chosen_precision, products_at
from saboc_jax.types import Variables

PASSES, GRADIENTS = "passes", "gradients"
Directions = list[Float[Array, "b ..."]]
"""J' C, for each chosen parameter."""


class Steps:
    """The halves of products with one chunk of examples, for all weights of a network.

    Attributes:
        plain: the network without its weights, for forward mode.
        fast: the same function, for reverse mode.
        options: parameters and outputs.
        is_checked: has a kernel of this network been verified?
    """

    def __init__(self, plain: Template, fast: Template, options: NTKOptions) -> None:
        self.plain, self.fast, self.options = plain.network, fast.network, options
        self.is_checked = False
        self._programs: dict[Any, Any] = {}

    def pull(
        self, way: str, variables: Variables, inputs: Any, cotangents: Float[Array, "b c k"]
    ) -> Directions:
        """Returns J' C of a chunk.

        Args:
            way: `PASSES` or `GRADIENTS`.
            variables: the weights.
            inputs: a chunk of c examples.
            cotangents: the columns of C.
        """
        if way == GRADIENTS:
            jacobian = self._jacobian(variables, inputs)
            return [
                jnp.einsum("bck,ck...->b...", cotangents, leaf, precision=PRECISION)
                for leaf in jacobian
            ]
        function, leaves = self._function(self.fast, variables, inputs)
        _, back = jax.vjp(lambda leaves: function(leaves, inputs), leaves)
        return _mapped(lambda g: back(g)[0], cotangents)

    def push(
        self, way: str, variables: Variables, inputs: Any, directions: Directions
    ) -> Float[Array, "b c k"]:
        """Returns J U of a chunk; arguments as in `pull`."""
        if way == GRADIENTS:
            jacobian = self._jacobian(variables, inputs)
            parts = [
                jnp.einsum(
                    "ckp,bp->bck",
                    leaf.reshape(*leaf.shape[:2], -1),
                    own.reshape(len(own), -1),
                    precision=PRECISION,
                )
                for leaf, own in zip(jacobian, directions, strict=True)
            ]
            return sum(parts[1:], start=parts[0])
        function, leaves = self._function(self.plain, variables, inputs)
        if len(directions[0]) == 1:
            tangents = [own[0] for own in directions]
            return jax.jvp(lambda leaves: function(leaves, inputs), (leaves,), (tangents,))[1][None]
        _, forward = jax.linearize(lambda leaves: function(leaves, inputs), leaves)
        pushed: Array = _mapped(forward, directions)
        return pushed

    def compiled(self, half: str, way: str, *args: Any) -> Any:
        """Returns `pull` or `push` compiled for arguments (or shapes) like these."""
        key = (half, way, chosen_precision(), signature_of(args))
        if key not in self._programs:
            function: Callable[..., Any] = getattr(self, half)
            with products_at():
                lowered = jax.jit(lambda *given: function(way, *given)).lower(*args)
            self._programs[key] = lowered.compile()
        return self._programs[key]

    def bytes_of(self, way: str, variables: Variables, inputs: Any, columns: Any) -> int:
        """Returns what the halves take in memory for a chunk of these shapes.

        Args:
            way: `PASSES` or `GRADIENTS`.
            variables: the weights.
            inputs: a chunk.
            columns: cotangents [b, c, k] or their shape.
        """
        pull = self.compiled("pull", way, variables, inputs, columns)
        directions = jax.eval_shape(lambda *a: self.pull(way, *a), variables, inputs, columns)
        push = self.compiled("push", way, variables, inputs, directions)
        return max(needed_bytes(pull), needed_bytes(push))

    def parameters(self, variables: Variables, inputs: Any) -> int:
        """Returns how many numbers the chosen parameters have."""
        return sum(leaf.size for leaf in self._function(self.plain, variables, inputs)[1])

    def _function(
        self, network: Network, variables: Variables, inputs: Any
    ) -> tuple[Function, list[Array]]:
        network = network._replace(variables=variables)
        predicate = prepare(network, inputs, self.options).predicate
        return network_function(network, inputs, predicate, self.options)

    def _jacobian(self, variables: Variables, inputs: Any) -> list[Float[Array, "c k ..."]]:
        function, leaves = self._function(self.plain, variables, inputs)

        def one(example: Any) -> list[Array]:
            alone = jax.tree.map(lambda leaf: leaf[None], example)
            found: list[Array] = jax.jacrev(lambda leaves: function(leaves, alone)[0])(leaves)
            return found

        return list(jax.vmap(one)(inputs))


def _mapped(function: Callable[..., Any], given: Any) -> Any:
    """Applies a function to each column, a few at once."""
    number = len(jax.tree.leaves(given)[0])
    return lax.map(function, given, batch_size=passes_at_once(number))


@lru_cache(64)
def steps_of(plain: Template, fast: Template, options: NTKOptions) -> Steps:
    """Returns the steps of a network; networks of equal sources share them and their programs."""
    return Steps(plain, fast, options)


def cheaper_way(work: int, parameters: int, outputs: int, columns: int) -> str:
    """Returns the way that takes fewer multiply-accumulates; see the module.

    Args:
        work: multiply-accumulates of one example's outputs.
        parameters: how many numbers the chosen parameters have.
        outputs: k.
        columns: b, cotangents of a product.
    """
    passes = 2 * work + 4 * work * columns
    gradients = 2 * work + 4 * work * outputs + 2 * parameters * outputs * columns
    return GRADIENTS if gradients < passes else PASSES
