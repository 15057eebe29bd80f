"""Examines a foreign network once, when its program is compiled: can its scores be believed?

Networks of our own layers are held by tests. Of any other, the kernel is verified (`ntk.check`) and
the share of weights without a gradient is told. It costs one plain gradient, compiled with little
optimisation because it runs once.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from saboc_jax.layers.fast_programs import with_fast_convolutions
from saboc_jax.layers.programs import ProgramCache
from saboc_jax.ntk import check
from saboc_jax.ntk.compute import differences_of, is_only_rounding, needs_check, prepare
from saboc_jax.ntk.network import NoParameterError, bind
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.scorers.observables import KernelRequest, draw_weights
from saboc_jax.types import Batch, Gates, PRNGKey, Scorer, SearchSpace

DEAD_WEIGHTS, FALLBACK = "dead_weights", "kernel_fallback"
INITIAL = "initial_statistics"
REFUSED = "refused"


class Examination(NamedTuple):
    """What was found about a network.

    Attributes:
        scorer: the scorer as it is right for this network.
        notes: diagnostics: the share of dead weights, why a kernel is computed otherwise, and
            whether running statistics are still initial.
    """

    scorer: Scorer
    notes: dict[str, Any]


def examine(
    scorer: Scorer,
    space: SearchSpace,
    key: PRNGKey,
    gates: Gates,
    batch: Batch,
    observed: Mapping[str, Any],
    programs: ProgramCache,
) -> Examination:
    """Examines the network of a program; arguments as of `scorers.combine.observe`.

    Args:
        scorer: reads gradients, else there is nothing to examine.
        space: restricted to the network's program.
        key: seeds its weights.
        gates: of the program.
        batch: the batch that `observed` is of.
        observed: the quantities that the scorer observed.
        programs: the cache of compiled programs.

    Raises:
        ValueError: if a kernel is wrong by the engine that was asked for by name.
    """
    own = space.one_program
    if own.known_layers or not (scorer.passes.backward or scorer.passes.backward_per_image):
        return Examination(scorer, {})
    kernels = {n: o for n, o in scorer.observables.items() if isinstance(o, KernelRequest)}
    name, request = next(iter(kernels.items()), ("", None))
    options = NTKOptions() if request is None else request.options
    verify = request is not None and needs_check(options)
    kernel = observed[name]["images"] if verify else None

    def run(key: PRNGKey, gates: Gates, images: Any, kernel: Any) -> check.Differences:
        network = bind(space, draw_weights(space, key), gates)
        return differences_of(network, images, kernel, options)

    try:
        found = programs.run_once(with_fast_convolutions(run), key, gates, batch.images, kernel)
    except NoParameterError:  # the scorer itself says what that means
        return Examination(scorer, {})
    differences: check.Differences = jax.device_get(found)
    notes: dict[str, Any] = {DEAD_WEIGHTS: float(differences.dead)}
    if options.batch_norm == "running":
        initial = check.initial_statistics(bind(space, draw_weights(space, key), gates), options)
        notes |= {} if initial is None else {INITIAL: initial}
    if kernel is None:
        return Examination(scorer, notes)
    shapes = jax.eval_shape(lambda key: draw_weights(space, key), key)
    tolerance = check.tolerance_for(bind(space, shapes, gates), batch.images, kernel)
    if differences.passed(tolerance):
        return Examination(scorer, notes)
    network = bind(space, draw_weights(space, key), gates)
    if is_only_rounding(network, batch.images, options, kernel.dtype):
        return Examination(scorer, notes)
    network = prepare(network, batch.images, options).network
    reason = check.reason_of(differences, tolerance, network, batch.images)
    check.fall_back(options, reason)
    return Examination(_by_jacobian(scorer), notes | {FALLBACK: reason})


def _by_jacobian(scorer: Scorer) -> Scorer:
    """Returns the scorer with every kernel by the Jacobian of the whole batch."""
    observables = {
        name: replace(each, options=each.options._replace(engine="jacobian"))
        if isinstance(each, KernelRequest)
        else each
        for name, each in scorer.observables.items()
    }
    return scorer._replace(observables=observables)


def warnings_of(diagnostics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns (code, sentence) of everything that makes a score doubtful."""
    found = []
    for name, value in diagnostics.items():
        kind = name.rpartition(".")[2]
        if kind == DEAD_WEIGHTS and float(np.asarray(value)) > 0.5:
            found.append(
                (
                    DEAD_WEIGHTS,
                    f"{float(np.asarray(value)):.1%} of the weights have exactly zero gradient for "
                    "the whole batch: heads or scales that start at zero cut them off, so the "
                    "score is that of the rest (redraw_zeros=True draws them anew)",
                )
            )
        if kind in (FALLBACK, INITIAL, REFUSED):
            found.append((kind, str(value)))
    return list(dict.fromkeys(found))
