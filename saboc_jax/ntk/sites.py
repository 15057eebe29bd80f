"""An operation of the frontier as a JAX function whose reverse pass gives per-example gradients.

Every site gets extra arguments, arrays of zeros that do not affect its results: the *tap*, shared
by all sites, whose cotangent is the Gram matrix of gradients; and for parameters that meet examples
in several places, arrays [n, ...] whose cotangents are the gradients themselves; JAX adds them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from saboc_jax.layers.jaxpr import Equation
from saboc_jax.ntk.conv_rules import ConvRule, is_convolution
from saboc_jax.ntk.frontier import Operand
from saboc_jax.ntk.general_rule import GeneralRule, Values
from saboc_jax.ntk.gram import Columns, gram
from saboc_jax.ntk.site_rules import LookupRule, ProductRule, is_lookup, is_product


def rule_for(equation: Equation, kinds: Sequence[str]) -> GeneralRule:
    """Returns the fastest rule that serves an equation."""
    own = tuple(kinds)
    for serves, rule in (
        (is_convolution, ConvRule),
        (is_product, ProductRule),
        (is_lookup, LookupRule),
    ):
        if serves(equation, own):
            return rule(equation, own)
    return GeneralRule(equation, own)


@dataclass(frozen=True, eq=False)
class Site:
    """An operation where parameters meet an example.

    Attributes:
        rule: computes it.
        operands: its parameter-only operands; none: it only needs its fast rule.
        columns: the columns of the kernel.
        factored: by position, what gives (left, right) factors of an operand's gradients from
            (operands, cotangents); see `ntk.factors`.
    """

    rule: GeneralRule
    operands: tuple[Operand, ...]
    columns: Columns
    factored: Mapping[int, Callable[[Values, Values], tuple[Array, Array]]] = field(
        default_factory=dict
    )

    def tap_cotangents(
        self, values: Values, cotangents: Values, ways: Sequence[Any], taps: Sequence[Any]
    ) -> tuple[dict[int, Array], list[Any]]:
        """Returns cotangents of examples' operands, and those of the taps of each operand.

        Args:
            values: the operands.
            cotangents: of the results.
            ways: (values of anchors, values of extras) of each parameter-only operand.
            taps: (the shared tap,) or one tap for each anchor or factor, of each parameter-only
                operand.
        """
        short = self._shortcut(values, cotangents)
        wanted = short is None and any(o.position not in self.factored for o in self.operands)
        back, rows = self.rule.backward(values, cotangents, with_rows=wanted)
        if short is not None:
            return back, [(short.astype(taps[0][0].dtype),)]
        done: list[Any] = []
        for operand, way, own in zip(self.operands, ways, taps, strict=True):
            if operand.position in self.factored:
                found = self.factored[operand.position](values, cotangents)
                done.append(tuple(f.astype(t.dtype) for f, t in zip(found, own, strict=True)))
            else:
                done.append(self._of_operand(operand, rows[operand.position], way, own))
        return back, done

    def _shortcut(self, values: Values, cotangents: Values) -> Array | None:
        if len(self.operands) != 1:
            return None
        (operand,) = self.operands
        if not (operand.at_once and operand.is_plain):
            return None
        return self.rule.gram(values, cotangents, self.columns)

    def _of_operand(self, operand: Operand, rows: Array, way: Any, taps: Any) -> tuple[Array, ...]:
        if not (operand.at_once and operand.is_plain):
            rows_of_anchors = pull_back(operand, rows, *way)
        else:
            rows_of_anchors = (rows,)
        if not operand.at_once:
            return tuple(r.astype(tap.dtype) for r, tap in zip(rows_of_anchors, taps, strict=True))
        dtype = taps[0].dtype
        flat = [r.reshape(len(r), -1).astype(dtype) for r in rows_of_anchors]
        return (sum((gram(r, self.columns) for r in flat), start=jnp.zeros_like(taps[0])),)


def pull_back(
    operand: Operand, rows: Array, anchors: Sequence[Any], extras: Sequence[Any]
) -> tuple[Array, ...]:
    """Pulls gradients [n, ...] with respect to a value back to its anchors."""
    if not operand.chain:
        return (rows,)
    pull = jax.vjp(lambda *anchors: operand.run_chain(anchors, extras), *anchors)[1]
    return tuple(jax.vmap(pull)(rows))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def tapped(site: Site, values: Any, ways: Any, taps: Any) -> tuple[Any, ...]:
    """The results of a site; see `Site.tap_cotangents` for its arguments."""
    return tuple(site.rule.forward(values))


def _forward(site: Site, values: Any, ways: Any, taps: Any) -> tuple[Any, Any]:
    return tapped(site, values, ways, taps), (values, ways, taps)


def _backward(site: Site, saved: Any, cotangents: Any) -> tuple[Any, ...]:
    values, ways, taps = saved
    back, done = site.tap_cotangents(values, cotangents, ways, taps)
    of_values = tuple(
        back[p].astype(value.dtype) if p in back else no_cotangent(value)
        for p, value in enumerate(values)
    )
    return of_values, jax.tree.map(no_cotangent, ways), tuple(done)


tapped.defvjp(_forward, _backward)


def no_cotangent(value: Any) -> Any:
    """Returns a cotangent of zeros. Parameters are constants here, as are integers."""
    value = value if hasattr(value, "dtype") else np.asarray(value)
    if jnp.issubdtype(value.dtype, jnp.inexact):
        return jnp.zeros_like(value)
    return np.zeros(value.shape, jax.dtypes.float0)


def spread(value: Any, number: int) -> Array:
    """Gives a value that does not depend on the example an axis of examples."""
    return jnp.broadcast_to(value, (number, *jnp.shape(value)))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def joined_value(number: int, value: Array, tap: Array) -> Array:
    """Spreads a parameter-only value over examples; `tap` collects its gradients."""
    return spread(value, number)


def _joined_forward(number: int, value: Array, tap: Array) -> tuple[Array, Any]:
    return joined_value(number, value, tap), (value, tap)


def _joined_backward(number: int, saved: Any, g: Array) -> tuple[Array, Array]:
    value, tap = saved
    return jnp.zeros_like(value), g.astype(tap.dtype)


joined_value.defvjp(_joined_forward, _joined_backward)
