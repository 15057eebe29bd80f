"""Converts weights of the benchmark's PyTorch networks to parameters of our networks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from saboc_jax.spaces.nas_bench_201.space import NUM_EDGES, PARAMETRIC, STAGES, operation_names
from saboc_jax.types import Architecture, SearchSpace, Variables


def load_torch_state(
    space: SearchSpace, arch: Architecture, state: Mapping[str, Any] | str | Path
) -> Variables:
    """Converts a torch state dict of the macro network to variables of the gated network.

    Args:
        space: a NAS-Bench-201 space of the same channels, cells and classes.
        arch: the cell of the state dict; operations it does not use are filled with zeros.
        state: a mapping from torch names to arrays (convolutions OIHW), or an npz file of it.

    Raises:
        ValueError: if a name is missing or unused, or an array has another shape.
    """
    if isinstance(state, str | Path):
        with np.load(state) as archive:
            state = dict(archive)
    reader = _Reader({name: np.asarray(value) for name, value in state.items()})
    shapes = jax.eval_shape(space.init, jax.random.key(0))["params"]
    params: dict[str, Any] = {
        "stem": {"conv": {"conv": reader.conv("stem.0")}, "norm": {"norm": reader.norm("stem.1")}},
        "head": {
            "norm": {"norm": reader.norm("lastact.0")},
            "classifier": reader.dense("classifier"),
        },
    }
    num_cells = jax.tree.leaves(shapes["cells_0_nor_conv_3x3"])[0].shape[0]
    names = operation_names(arch)
    for stage in range(STAGES):
        first = stage * (num_cells + 1)
        if stage:
            params[f"reduction_{stage}"] = reader.reduction(f"cells.{first - 1}")
        for operation in PARAMETRIC:
            key = f"cells_{stage}_{operation}"
            params[key] = _stack(reader, names, operation, first, shapes[key])
    reader.check_all_read()
    _check_shapes(params, shapes)
    return {"params": jax.tree.map(jnp.asarray, params)}


def _stack(
    reader: "_Reader", names: tuple[str, ...], operation: str, first: int, shapes: Any
) -> Any:
    """Returns one operation's parameters in a stage, [cells, edges, ...]; zeros where absent."""
    stacked = jax.tree.map(lambda s: np.zeros(s.shape, reader.dtype), shapes)
    num_cells = jax.tree.leaves(shapes)[0].shape[0]
    for cell in range(num_cells):
        for edge in range(NUM_EDGES):
            if names[edge] != operation:
                continue
            prefix = f"cells.{first + cell}.layers.{edge}.op"
            kernels = stacked["conv"]["conv"]["kernel"]
            _put(kernels, (cell, edge), f"{prefix}.1.weight", reader.conv(f"{prefix}.1")["kernel"])
            for name, value in reader.norm(f"{prefix}.2").items():
                _put(stacked["norm"]["norm"][name], (cell, edge), f"{prefix}.2", value)
    return stacked


def _put(stacked: np.ndarray, place: tuple[int, int], name: str, value: np.ndarray) -> None:
    # Without this check NumPy would broadcast a 1x1 kernel of another cell into a 3x3 kernel.
    if value.shape != stacked.shape[2:]:
        raise ValueError(
            f"{name!r} has shape {value.shape} (height, width, in, out); this network has "
            f"{stacked.shape[2:]}: another cell, or other channels?"
        )
    stacked[place] = value


class _Reader:
    """Reads a torch state dict by name and records which names were read."""

    def __init__(self, state: Mapping[str, np.ndarray]) -> None:
        self.state = state
        self.read: set[str] = set()
        self.dtype = next(iter(state.values())).dtype if state else np.dtype(np.float32)

    def take(self, name: str) -> np.ndarray:
        if name not in self.state:
            raise ValueError(f"the state dict has no {name!r}; it holds {sorted(self.state)[:8]}…")
        self.read.add(name)
        return self.state[name]

    def conv(self, prefix: str) -> dict[str, np.ndarray]:
        return {"kernel": self.take(f"{prefix}.weight").transpose(2, 3, 1, 0)}

    def dense(self, prefix: str) -> dict[str, np.ndarray]:
        return {"kernel": self.take(f"{prefix}.weight").T, "bias": self.take(f"{prefix}.bias")}

    def norm(self, prefix: str) -> dict[str, np.ndarray]:
        return {"scale": self.take(f"{prefix}.weight"), "bias": self.take(f"{prefix}.bias")}

    def relu_conv_norm(self, prefix: str) -> dict[str, Any]:
        return {
            "conv": {"conv": self.conv(f"{prefix}.op.1")},
            "norm": {"norm": self.norm(f"{prefix}.op.2")},
        }

    def reduction(self, prefix: str) -> dict[str, Any]:
        return {
            "conv_a": self.relu_conv_norm(f"{prefix}.conv_a"),
            "conv_b": self.relu_conv_norm(f"{prefix}.conv_b"),
            "shortcut": {"conv": self.conv(f"{prefix}.downsample.1")},
        }

    def check_all_read(self) -> None:
        running = ("running_mean", "running_var", "num_batches_tracked")
        left = [n for n in self.state if n not in self.read and not n.endswith(running)]
        if left:
            raise ValueError(
                f"the state dict holds names that this network does not have: {left[:8]}; "
                f"is it of another cell, or of another number of cells?"
            )


def _check_shapes(params: Any, shapes: Any) -> None:
    def check(path: Any, leaf: Any, shape: Any) -> None:
        if leaf.shape != shape.shape:
            raise ValueError(
                f"{jax.tree_util.keystr(path)} has shape {leaf.shape}; this space has "
                f"{shape.shape}: other channels or classes?"
            )

    jax.tree_util.tree_map_with_path(check, params, shapes)
