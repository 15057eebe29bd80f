"""`consensus`: the ranking that we recommend, the same for every space and for anybody's modules.

No single witness orders every space; a candidate's place is what several different ones agree on:

    size       one witness of four measures: parameters, multiply-accumulates, activations (outputs
               of layers), and volume (the sum of the logarithms of the widths of the layers on a
               path). Logarithms of ranks by the four are added, and ranked again.
    S_g        error of kernel regression on held-out images (`ntk_score`, Eq. 10): lower is better.
    jacob_cov  how unlike the gradients of different images are (`jacob_cov`).
    chain      most layers in a row between two concatenations.
    pool_free  paths from input to output without a pooling.

Size, chain and paths are those of the network that will be trained (`scorers.structure`), S_g and
jacob_cov of the scoring network, in two kernels and one backward pass. Candidates are ranked by
`statistics.ranking.anchored`: logarithms of ranks are added as AZ-NAS adds them, size in full and
every other witness with the weight that its agreement with size earns it, which needs no
accuracies.

**What a candidate cannot have**: where no weights of the searched cells reach the output there is
no kernel, and S_g is the worst there is, by that witness alone. A witness that does not tell the
candidates apart, because it is equal for all, has no say. Where inputs are whole numbers (tokens),
which have no gradient, jacob_cov is such a witness. A network whose outputs are not finite is bad,
and last. There is no other rule. A rank needs a set: a single candidate has witnesses, but no rank.

Supernets have no structure, so pruning cannot use it. How the witnesses were chosen, and on what:
docs/consensus_protocol.md.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from saboc_jax.ntk import regression, spectrum
from saboc_jax.ntk.options import NTKOptions, check_options
from saboc_jax.scorers.jacob_cov import InputCorrelation, has_gradient, spectrum_score
from saboc_jax.scorers.kernels import Kernels
from saboc_jax.scorers.structure import ask, costs_of, structures_of
from saboc_jax.types import Batch, Diagnostics, Gates, Passes, Scorer, SearchSpace

SIZE = ("params", "macs", "activations", "volume")  # the anchor of `ranking.anchored`
STRUCTURE = ("params", "activations", "volume", "chain", "pool_free")
WITNESSES = (*SIZE, "S_g", "jacob_cov", "chain", "pool_free")
HIGHER_IS_BETTER = tuple(name != "S_g" for name in WITNESSES)
VERSION = 2  # of the definition, part of a stored score's identity


def consensus(space: SearchSpace, *, engine: str = "auto", batch_norm: str = "frozen") -> Scorer:
    """The witnesses of the recommended ranking; its own aggregation adds their ranks.

    Args:
        space: the search space.
        engine: NTK engine, see `ntk.empirical`; all give the same kernel.
        batch_norm: of the kernel: "frozen" or "batch".

    Raises:
        ValueError: if an option does not exist.
    """
    options = check_options(NTKOptions(engine, "cells", "sum", batch_norm, 1, None))
    example = space.networks.example
    differs = example is None or has_gradient(example)  # tokens have no gradient: equal for all
    structures, costs = structures_of(space), costs_of(space)

    def encode(labels: Any) -> Array:
        return regression.encode_labels(labels, space.num_classes)

    def finish(
        observed: Mapping[str, Any], gates: Gates, batch: Batch
    ) -> tuple[Float[Array, " k"], Diagnostics]:
        kernels = observed["kernels"]
        likeness = spectrum_score(observed["correlation"]) if differs else jnp.zeros(())
        decomposed = spectrum.decompose(kernels["images"])
        coefficients = regression.dual_coefficients(decomposed, encode(batch.labels), 1e-6)
        error = regression.generalisation(
            kernels["test_images"] @ coefficients, encode(batch.test_labels), "mse"
        )
        largest = decomposed.values[0]  # zero: no weights reach the output, the worst S_g there is
        error = jnp.where((largest > 0) | jnp.isnan(largest), error, jnp.inf)
        measured = jnp.stack([error, likeness.astype(error.dtype)])
        counted = jnp.append(ask(structures, STRUCTURE, gates), ask(costs, ("macs",), gates))
        counted = jnp.minimum(counted, jnp.finfo(counted.dtype).max)  # float32 holds fewer paths
        found = dict(
            zip(("S_g", "jacob_cov", *STRUCTURE, "macs"), [*measured, *counted], strict=True)
        )
        scores = jnp.stack([found[name] for name in WITNESSES])
        scores = jnp.where(jnp.isnan(measured).any(), jnp.nan, scores)  # bad, whatever is counted
        return scores, {"eigenvalues": decomposed.values}

    kernel, gradient = options.passes(2), Passes(1, 1)
    return Scorer(
        name="consensus",
        metrics=WITNESSES,
        higher_is_better=HIGHER_IS_BETTER,
        needs=frozenset({"images", "labels", "test_images", "test_labels"}),
        passes=Passes(*(a + b for a, b in zip(kernel, gradient, strict=True))),
        observables={"kernels": Kernels(space, options, ("test_images",))}
        | ({"correlation": InputCorrelation(space)} if differs else {}),
        finish=finish,
        options={"batch_norm": batch_norm, "version": VERSION},
        ranking="anchored",
        supernets=False,
    )
