"""Training-free scorers, one file per paper."""

from typing import Any

from saboc_jax.scorers.combine import load_factory
from saboc_jax.types import Scorer, SearchSpace

# A new scorer is one file with a factory `f(space, **options) -> Scorer` and one line here.
SCORERS = {
    "consensus": "saboc_jax.scorers.consensus:consensus",
    "ntk_score": "saboc_jax.scorers.ntk_score:ntk_score",
    "trainability": "saboc_jax.scorers.ntk_score:trainability",
    "zen": "saboc_jax.scorers.zen:zen",
    "naswot": "saboc_jax.scorers.naswot:naswot",
    "swap": "saboc_jax.scorers.swap:swap",
    "az_nas": "saboc_jax.scorers.az_nas:az_nas",
    "te_nas": "saboc_jax.scorers.te_nas:te_nas",
    "teg_nas": "saboc_jax.scorers.teg_nas:teg_nas",
    "ete_nas": "saboc_jax.scorers.ete_nas:ete_nas",
    "knas": "saboc_jax.scorers.knas:knas",
    "lga": "saboc_jax.scorers.lga:lga",
    "fisher": "saboc_jax.scorers.fisher:fisher",
    "snip": "saboc_jax.scorers.snip:snip",
    "synflow": "saboc_jax.scorers.synflow:synflow",
    "grasp": "saboc_jax.scorers.grasp:grasp",
    "grad_norm": "saboc_jax.scorers.grad_norm:grad_norm",
    "zico": "saboc_jax.scorers.zico:zico",
    "jacob_cov": "saboc_jax.scorers.jacob_cov:jacob_cov",
    "logme": "saboc_jax.scorers.logme:logme",
    "params": "saboc_jax.scorers.costs:params",
    "macs": "saboc_jax.scorers.costs:macs",
    "depth": "saboc_jax.scorers.costs:depth",
    "paths": "saboc_jax.scorers.structure:paths",
    "activations": "saboc_jax.scorers.structure:activations",
    "random": "saboc_jax.scorers.costs:random",
    "latency": "saboc_jax.scorers.latency:latency",
}
# Scorers that measure this machine (`Scorer.measured`): `--scorers=all` leaves them out.
MEASURED = frozenset({"latency"})


def make_scorer(name: str, space: SearchSpace, **options: Any) -> Scorer:
    """Makes a scorer by name.

    Args:
        name: a key of `SCORERS`.
        space: the search space it scores.
        **options: options of that scorer's factory.

    Raises:
        ValueError: if the name is unknown or an option does not exist.
    """
    factory = load_factory(SCORERS, name)
    try:
        return factory(space, **options)
    except TypeError as error:
        raise ValueError(f"scorer {name!r}: {error}") from error
