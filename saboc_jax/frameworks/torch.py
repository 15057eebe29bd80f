"""PyTorch modules as candidates, through torchax, which runs a module's own code on JAX arrays.

The module is copied; the user's is never changed. The copy is in evaluation mode. With the
statistics of the batch, a hook of every batch norm puts the mean and the biased variance of what
the norm is given in place of its running ones: what PyTorch normalises by when it trains.

Fresh weights: PyTorch draws on the host, so a program fetches them when it runs. The factory is
called under a forked generator of the CPU, seeded by 64 bits of the key.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from saboc_jax.extras import OWN, install_line, needed
from saboc_jax.frameworks.common import (
    BUFFERS,
    ONE_THREAD,
    check_has_parameters,
    check_layout,
    refuse,
    turned,
    with_collections,
)
from saboc_jax.frameworks.host import Fetched
from saboc_jax.layers import linen
from saboc_jax.layers.linen import STATISTICS
from saboc_jax.layers.tree import Named
from saboc_jax.ntk.network import Network

with needed("torch", "A PyTorch network"):
    import torch
    from torch.utils import _pytree as pytree

    try:
        import torchax.tensor
    except ModuleNotFoundError:
        raise
    except Exception as error:  # torchax reads internals of PyTorch, JAX and Flax
        raise ImportError(
            f"torchax does not import beside torch {torch.__version__} ({error}); the extra "
            f"`torch` of {OWN} brings a pair that does: {install_line('torch')}"
        ) from error

_HOLE = object()
ALLOWED = "a torch.nn.Module, or a function without arguments that makes one"
KINDS = ("params", STATISTICS, BUFFERS)
RUNNING = ("running_mean", "running_var")


def network_of(given: Any, layout: str) -> Network:
    """Returns a network as a candidate; see `adapters.from_torch`."""
    turns = check_layout(layout)
    if isinstance(given, torch.nn.Module):
        code = _Code(given, turns)
        own = code.variables([jnp.asarray(array) for array in code.own])
        return Network(code.apply, own, train=code.train, name=code.name, source=code)
    if not callable(given) or isinstance(given, type):
        raise refuse(given, ALLOWED)
    code = _Code(made_with(given, 0), turns)
    fetched = Fetched(lambda seed: code.arrays(made_with(given, seed)), code.own)

    def init(key: Any) -> dict[str, Any]:
        return code.variables(fetched(key))

    return Network(code.apply, {}, train=code.train, name=code.name, source=code, init=init)


def made_with(make: Callable[[], Any], seed: int) -> Any:
    """Returns the factory's module, drawn with a seed; the user's generator stays as it is.

    Args:
        make: makes a module.
        seed: a whole number of 64 bits.

    Raises:
        ValueError: if it makes something else.
    """
    with ONE_THREAD, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = make()
    if not isinstance(module, torch.nn.Module):
        raise refuse(module, ALLOWED)
    return module


class _Code:
    """A module without its arrays; compared by identity."""

    def __init__(self, module: Any, turns: bool) -> None:
        self.name, self.turns = type(module).__name__, turns
        self.module = _prepared(copy.deepcopy(module))
        self.environment = torchax.tensor.Environment()
        self.environment.override_op_definition(torch.nn.functional.linear, _linear)
        trained = [n for n, p in self.module.named_parameters() if p.requires_grad]
        self.norms = {name: m for name, m in self.module.named_modules() if _is_norm(m)}
        moving = {f"{name}.{kind}" for name in self.norms for kind in RUNNING}
        kept = _tensors(self.module)
        self.names = {
            "params": trained,
            STATISTICS: [name for name in kept if name in moving],
            BUFFERS: [name for name in kept if name not in {*moving, *trained}],
        }
        self.named = {
            kind: Named([tuple(name.split(".")) for name in names])
            for kind, names in self.names.items()
        }
        check_has_parameters(trained, self.name)
        self.own = self.arrays(self.module)
        self.recorded: dict[str, Any] | None = None
        # Its code takes a second to trace, and is asked for the same shapes a dozen times a score.
        self._apply = jax.jit(self._run, inline=True)
        self._train = jax.jit(self._run_recording, inline=True)
        for name, norm in self.norms.items():
            norm.register_forward_pre_hook(_Hook(self, name))

    def arrays(self, module: Any) -> list[np.ndarray]:
        """Returns the arrays of a module of this kind, kind by kind.

        Raises:
            ValueError: if the module has other arrays.
        """
        kept = _tensors(_prepared(module))
        names = [name for kind in KINDS for name in self.names[kind]]
        if set(names) != set(kept):
            differ = sorted(set(names) ^ set(kept))[:3]
            raise ValueError(f"the function makes other modules of {self.name}: {differ} differ")
        return [_as_array(kept[name]) for name in names]

    def variables(self, arrays: Sequence[Any]) -> dict[str, Any]:
        """Returns the arrays of `arrays` as collections."""
        rest, trees = list(arrays), {}
        for kind in KINDS:
            number = len(self.names[kind])
            trees[kind], rest = self.named[kind].tree(rest[:number]), rest[number:]
        return with_collections(**trees)

    def apply(self, variables: Any, inputs: Any, mutable: Any = ()) -> Any:
        """Runs it in evaluation mode; returns (outputs, {})."""
        return self._apply(variables, inputs).outputs(), {}

    def train(self, variables: Any, inputs: Any, mutable: Any = ()) -> Any:
        """Runs it with the statistics of the batch; returns (outputs, state)."""
        results, recorded = self._train(variables, inputs)
        outputs = results.outputs()
        if not self.norms:
            return outputs, {}
        kept = self.named[STATISTICS].leaves(variables[STATISTICS])
        before = dict(zip(self.names[STATISTICS], kept, strict=True))
        values = [recorded.get(name, before[name]) for name in self.names[STATISTICS]]
        return outputs, {STATISTICS: self.named[STATISTICS].tree(values)}

    def _run_recording(self, variables: Any, inputs: Any) -> tuple["_Results", dict[str, Any]]:
        with ONE_THREAD, self._recording() as recorded:
            return self._run(variables, inputs), recorded

    @contextmanager
    def _recording(self) -> Iterator[dict[str, Any]]:
        self.recorded = {}
        try:
            yield self.recorded
        finally:
            self.recorded = None

    def _run(self, variables: Any, inputs: Any) -> "_Results":
        arrays: dict[str, Any] = {}
        for kind in KINDS:
            leaves = self.named[kind].leaves(variables.get(kind, {}))
            arrays |= dict(zip(self.names[kind], map(jnp.asarray, leaves), strict=True))
        args, named = linen.arguments(type(self.module).forward, inputs)
        if self.turns:
            args, named = turned((args, named))
        with ONE_THREAD, self.environment, _unchanged(self.module):
            tensors = self.environment.j2t_iso((arrays, args, named))
            outputs = torch.func.functional_call(self.module, *tensors)
        return _Results.of(self.environment.t2j_iso(outputs))


@jax.tree_util.register_pytree_node_class
class _Results:
    """What a module returned, of any class that PyTorch knows as a tree, as a tree of JAX."""

    def __init__(self, arrays: list[Any], others: list[Any], kind: Any) -> None:
        self.arrays, self.others, self.kind = arrays, others, kind

    @classmethod
    def of(cls, outputs: Any) -> "_Results":
        """Takes a tree apart: `others` has a hole for each array."""
        leaves, kind = pytree.tree_flatten(outputs)
        arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
        others = [_HOLE if isinstance(leaf, jax.Array) else leaf for leaf in leaves]
        return cls(arrays, others, kind)

    def outputs(self) -> Any:
        """Puts the tree together again."""
        arrays = iter(self.arrays)
        leaves = [next(arrays) if leaf is _HOLE else leaf for leaf in self.others]
        return pytree.tree_unflatten(leaves, self.kind)

    def tree_flatten(self) -> tuple[list[Any], Any]:
        """As JAX asks for it."""
        return self.arrays, (self.others, self.kind)

    @classmethod
    def tree_unflatten(cls, rest: Any, arrays: Any) -> "_Results":
        """As JAX asks for it."""
        return cls(list(arrays), *rest)


class _Hook:
    """Puts the statistics of what a batch norm is given in place of its own, while asked to."""

    def __init__(self, code: _Code, name: str) -> None:
        self.code, self.name = code, name

    def __call__(self, norm: Any, args: Any) -> None:
        recorded = self.code.recorded
        if recorded is None:
            return
        x = args[0]
        axes = [axis for axis in range(x.ndim) if axis != 1]
        norm.running_mean, norm.running_var = x.mean(axes), x.var(axes, unbiased=False)
        for kind in RUNNING:
            tensor = self.code.environment.t2j_iso(getattr(norm, kind))
            recorded[f"{self.name}.{kind}"] = tensor


@contextmanager
def _unchanged(module: Any) -> Iterator[None]:
    """Takes back what a module's own code keeps on itself, such as a cache of biases.

    It would be an array of one trace, and wrong or a leak in the next.
    """
    containers = (dict, list, set)
    before = [
        (each, {n: copy.copy(v) if isinstance(v, containers) else v for n, v in vars(each).items()})
        for each in module.modules()
    ]
    try:
        yield
    finally:
        for each, attributes in before:
            vars(each).clear()
            vars(each).update(attributes)


def _linear(input: Any, weight: Any, bias: Any = None) -> Any:
    """PyTorch's function by its own names: torchax's takes no `weight=`, which Swin V2 gives."""
    y = torch.einsum("...a,ba->...b", input, weight)
    return y if bias is None else y + bias


def _is_norm(module: Any) -> bool:
    return isinstance(module, torch.nn.modules.batchnorm._BatchNorm)


def _prepared(module: Any) -> Any:
    """Puts a module into evaluation mode; batch norms that keep no statistics get initial ones."""
    for norm in filter(_is_norm, module.modules()):
        if norm.running_mean is None:
            like = next(module.parameters()).dtype
            norm.register_buffer("running_mean", torch.zeros(norm.num_features, dtype=like))
            norm.register_buffer("running_var", torch.ones(norm.num_features, dtype=like))
            norm.track_running_stats = True
    return module.eval()


def _tensors(module: Any) -> dict[str, Any]:
    """Returns parameters and buffers, each once, whatever the number of its names."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _as_array(tensor: Any) -> np.ndarray:
    """Returns a tensor as an array of a type that JAX has in its present mode."""
    kept = tensor.detach().cpu()
    if kept.dtype is torch.bfloat16:
        return np.asarray(kept.float().numpy(), jnp.bfloat16)
    array = kept.numpy()
    return np.array(array, jax.dtypes.canonicalize_dtype(array.dtype))
