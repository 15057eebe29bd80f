"""Compares our values with those of other implementations on fixed weights and images."""

import zipfile
from collections.abc import Callable, Iterator, Mapping, Set
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from saboc_jax.benchmarks.parity_activations import PARITY_ACTIVATIONS
from saboc_jax.benchmarks.parity_gradients import PARITY_GRADIENTS
from saboc_jax.files import parse_json
from saboc_jax.forms import checked
from saboc_jax.layers.rules import batch_norm_rule
from saboc_jax.ntk.empirical import empirical_ntks
from saboc_jax.ntk.network import Network, bind, from_module
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.ntk.spectrum import condition_number, decompose
from saboc_jax.precision import enable_x64
from saboc_jax.scorers.jacob_cov import correlation, input_gradients, spectrum_score
from saboc_jax.spaces.nas_bench_201.space import nas_bench_201
from saboc_jax.spaces.nas_bench_201.torch_weights import load_torch_state
from saboc_jax.types import SearchSpace

Net = dict[str, Any]
Golden = Mapping[str, Any]
ParityRow = dict[str, Any]
KERNELS = ("ntk_train", "ntk_test_train", "ntk_pert_train")
PERTURBATION = 0.01  # times the file's standard normal noise


def load(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a golden file.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: if it is damaged or lacks a part.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no golden file {path}")
    try:
        with np.load(path) as archive:
            golden = dict(archive)
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        raise ValueError(f"golden file {path} is damaged: {error}") from error
    needed = {"meta", "x1", "y1", "x2", "y2", "x_test", "y_test", "noise"}
    if missing := sorted(needed - set(golden)):
        raise ValueError(f"golden file {path} lacks {missing}")
    return golden


def compare(
    path: str | Path, on_net: Callable[[int, int], None] | None = None
) -> tuple[list[ParityRow], list[str]]:
    """Computes every quantity of a golden file that we implement and compares it.

    Args:
        path: the file.
        on_net: called as `on_net(done, nets)` before every network.

    Returns:
        Rows (net, quantity, program, ours, theirs, error), and the quantities not implemented.
    """
    golden = load(path)
    meta = read_meta(golden, path)
    rows: list[ParityRow] = []
    unknown: set[str] = set()
    with enable_x64():
        arrays = {
            name: jnp.asarray(value, jnp.float64 if value.dtype.kind == "f" else None)
            for name, value in golden.items()
            if "/" not in name and value.dtype.kind in "fiu"
        }
        space = nas_bench_201(meta["C"], meta["N"], meta["num_classes"], golden["x1"].shape[1:])
        held = {index: _theirs(golden, index, net) for index, net in meta["nets"].items()}
        wanted = {name for theirs in held.values() for name in theirs}
        wanted |= {"input_gradients"} if "jacob_cov" in wanted else set()
        quantities = partial(_quantities, wanted, arrays)
        gated = jax.jit(lambda variables, gates: quantities(bind(space, variables, gates)))
        summed: dict[str, Any] = {}
        for done, (index, theirs) in enumerate(held.items()):
            if on_net:
                on_net(done, len(held))
            text = meta["nets"][index]["arch"]
            for program, ours in _programs(space, gated, quantities, golden, index, text):
                gradients = ours.pop("input_gradients", 0.0)
                summed[program] = summed.get(program, 0.0) + gradients
                if "jacob_cov" in theirs:
                    candidates = (gradients, summed[program])
                    ours["jacob_cov"] = _jacob_cov(candidates, float(theirs["jacob_cov"]))
                unknown |= set(theirs) - set(ours)
                rows += [
                    _row(index, name, program, ours[name], value)
                    for name, value in theirs.items()
                    if name in ours
                ]
    return rows, sorted(unknown)


class Meta(TypedDict):
    """What a golden file says of itself; a net has its cell's text and values by name."""

    C: int
    N: int
    num_classes: int
    nets: dict[str, Net]


def read_meta(golden: Golden, path: str | Path) -> Any:
    """Returns the meta of a golden file, after a check of it and of the images beside it.

    Raises:
        ValueError: names the file and what is of another form in it.
    """
    meta = checked(parse_json(str(golden["meta"]), f"golden file {path}: meta"), Meta, path)
    for index, net in meta["nets"].items():
        checked(net.get("arch"), str, f"golden file {path}: nets.{index} without a text 'arch'")
    images = [golden[name] for name in ("x1", "x2", "x_test", "noise")]
    shapes = [each.shape for each in images]
    if any(each.ndim != 4 or each.dtype.kind != "f" or not each.size for each in images):
        raise ValueError(f"golden file {path} has images of shapes {shapes}; allowed: [n, h, w, c]")
    if len({shape[1:] for shape in shapes}) > 1 or shapes[2] != shapes[3]:
        raise ValueError(f"golden file {path} has images of shapes {shapes}; allowed: one size")
    for name, count in {
        "y1": len(images[0]),
        "y2": len(images[1]),
        "y_test": len(images[2]),
    }.items():
        labels = golden[name]
        right = labels.shape == (count,) and labels.dtype.kind in "iu"
        if not right or labels.min() < 0 or labels.max() >= meta["num_classes"]:
            raise ValueError(
                f"golden file {path}: {name} of shape {labels.shape}; allowed: {count} whole "
                f"numbers from 0 to {meta['num_classes'] - 1}"
            )
    return meta


def _jacob_cov(candidates: tuple[Any, ...], theirs: float) -> Any:
    """Returns the nearer of two values: from a network's own or from summed input gradients.

    The released code reads `x.grad` and never clears it, so it adds each network's input
    gradients to those of the networks before. Only the first value belongs to a single network,
    unless the networks of the file were run separately.
    """
    values = [spectrum_score(correlation(gradients)) for gradients in candidates]
    return min(values, key=lambda value: abs(float(value) - theirs))


def _theirs(golden: Golden, index: str, net: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: value for name, value in net.items() if name != "arch"}
    arrays = {
        name.split("/", 1)[1]: value
        for name, value in golden.items()
        if name.startswith(f"{index}/") and not name.startswith(f"{index}/w/")
    }
    return arrays | values


def _programs(
    space: SearchSpace,
    gated: Callable[..., Any],
    quantities: Callable[[Network], dict[str, Any]],
    golden: Golden,
    index: str,
    text: str,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields our quantities from the gated program, then from the specialised module."""
    arch = space.from_string(text)
    prefix = f"{index}/w/"
    state = {
        name.removeprefix(prefix): value.astype(np.float64)
        for name, value in golden.items()
        if name.startswith(prefix)
    }
    variables = load_torch_state(space, arch, state)
    yield "gated", gated(variables, space.gates(arch))
    module = space.specialise(arch)
    own = space.extract(variables, arch)

    def specialised(own: Any) -> dict[str, Any]:
        return quantities(from_module(module, own)._replace(in_cells=space.one_program.in_cells))

    yield "specialised", jax.jit(specialised)(own)


def _quantities(wanted: Set[str], arrays: Golden, network: Network) -> dict[str, Any]:
    """Returns the wanted quantities of one network; the compiler removes the unused ones."""
    with nn.intercept_methods(batch_norm_rule("batch")):
        logits = network.apply(network.variables, arrays["x1"])[0]
    perturbed = arrays["x_test"] + PERTURBATION * arrays["noise"]
    options = NTKOptions(engine="jacobian", batch_norm="batch")
    kernels = empirical_ntks(network, arrays["x1"], (arrays["x_test"], perturbed), options)
    kappa = condition_number(decompose(kernels[0]).values, precision=0)
    values = {
        name: value(network, arrays)
        for name, value in {**PARITY_GRADIENTS, **PARITY_ACTIVATIONS}.items()
        if name != "jacob_cov"
    }
    known = {
        "input_gradients": input_gradients(network, arrays["x1"]),
        "logits": logits,
        **dict(zip(KERNELS, kernels, strict=True)),
        "te_nas_kappa": kappa,
        **values,
    }
    return {name: value for name, value in known.items() if name in wanted}


def _row(net: str, name: str, program: str, ours: Any, theirs: Any) -> ParityRow:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"{name} of net {net}: ours has shape {ours.shape}, theirs {theirs.shape}")
    finite = theirs[np.isfinite(theirs)]
    scale = np.abs(finite).max(initial=0.0)
    # Equal infinities count as no difference; their subtraction would give NaN.
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    apart = np.abs(np.where(same, 0.0, ours) - np.where(same, 0.0, theirs)).max(initial=0.0)
    error = float(apart / (scale if scale else 1.0))
    norm = partial(np.linalg.norm) if ours.ndim else float
    return {
        "net": net,
        "quantity": name,
        "program": program,
        "ours": float(norm(ours)),
        "theirs": float(norm(theirs)),
        "error": error if np.isfinite(error) else float("inf"),
    }
