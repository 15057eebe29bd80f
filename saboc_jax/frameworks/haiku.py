"""Haiku's transformed pairs as candidates.

The function is called in evaluation mode (flags such as `is_training` are set if it takes them).
Its `hk.BatchNorm`s are then put into training mode, without momentum, by an interceptor.
"""

from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

from saboc_jax.extras import needed
from saboc_jax.frameworks.common import check_has_parameters, refuse, with_collections
from saboc_jax.layers import linen
from saboc_jax.layers.linen import STATISTICS
from saboc_jax.ntk.network import Network

with needed("haiku", "A Haiku network"):
    import haiku as hk

ALLOWED = "what haiku.transform or haiku.transform_with_state gives"


def network_of(
    transformed: Any,
    params: Any,
    state: Any,
    call: Mapping[str, Any] | None,
    rng: Any,
) -> Network:
    """Returns a network as a candidate; see `adapters.from_haiku`."""
    if not isinstance(transformed, hk.Transformed | hk.TransformedWithState):
        raise refuse(transformed, ALLOWED)
    code = _Code(transformed, dict(call or {}), rng)
    if params is None:
        return Network(
            code.apply, {}, train=code.train, name=code.name, source=code, init_on=code.init
        )
    check_has_parameters(params, code.name)
    if code.has_state and state is None:
        raise ValueError("params without state; allowed: both, as transformed.init gives them")
    own = with_collections(params=params, **{STATISTICS: state or {}})
    return Network(code.apply, own, train=code.train, name=code.name, source=code)


class _Code:
    """A transformed function; compared by identity."""

    def __init__(self, transformed: Any, call: dict[str, Any], rng: Any) -> None:
        self.transformed, self.rng = transformed, rng
        self.has_state = isinstance(transformed, hk.TransformedWithState)
        self.function = getattr(transformed.init, "_original_fn", transformed.apply)
        self.call = linen.call_in_mode(self.function, call, training=False)
        self.takes_rng = "rng" in linen.names_of(transformed.apply)
        self.name = getattr(self.function, "__name__", "haiku").strip("<>")

    def init(self, key: Any, inputs: Any) -> dict[str, Any]:
        """Draws variables for inputs of these shapes; `key` is consumed."""
        with _norms_in_training():
            args, named = self._arguments(inputs)
            drawn = self.transformed.init(key, *args, **named)
        params, state = drawn if self.has_state else (drawn, {})
        check_has_parameters(params, self.name)
        return with_collections(params=params, **{STATISTICS: state})

    def apply(self, variables: Any, inputs: Any, mutable: Any = ()) -> Any:
        """Runs it in evaluation mode; returns (outputs, {})."""
        return self._run(variables, inputs)[0], {}

    def train(self, variables: Any, inputs: Any, mutable: Any = ()) -> Any:
        """Runs it with the statistics of the batch; returns (outputs, state)."""
        with _norms_in_training():
            outputs, state = self._run(variables, inputs)
        return outputs, {STATISTICS: state} if variables.get(STATISTICS) else {}

    def _run(self, variables: Any, inputs: Any) -> tuple[Any, Any]:
        args, named = self._arguments(inputs)
        rng = (self.rng,) if self.takes_rng else ()
        if self.has_state:
            state = variables.get(STATISTICS, {})
            outputs, state = self.transformed.apply(
                variables["params"], state, *rng, *args, **named
            )
            return outputs, state
        return self.transformed.apply(variables["params"], *rng, *args, **named), {}

    def _arguments(self, inputs: Any) -> tuple[Any, Any]:
        args, named = linen.arguments(self.function, inputs)
        return args, {**self.call, **named}


@contextmanager
def _norms_in_training() -> Any:
    """Puts Haiku's batch norms into training mode without momentum, and nothing else."""

    def rule(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if not isinstance(module, hk.BatchNorm) or context.method_name != "__call__":
            return next_fun(*args, **kwargs)
        inputs = args[0] if args else kwargs["inputs"]
        others = {n: v for n, v in kwargs.items() if n not in ("inputs", "is_training")}
        averages = (module.mean_ema, module.var_ema)
        before = [average.decay for average in averages]
        try:
            for average in averages:
                average.decay = 0.0
            return next_fun(inputs, True, *args[2:], **others)
        finally:
            for average, decay in zip(averages, before, strict=True):
                average.decay = decay

    with hk.intercept_methods(rule):
        yield
