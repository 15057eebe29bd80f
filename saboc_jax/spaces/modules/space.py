"""The user's own Flax modules as a search space.

`module_space` takes a list of Linen modules (with one decision: which module), or a function from
an architecture to a Linen module. `nnx.from_nnx` converts an nnx module to a Linen module.

Every architecture has its own program, compiled separately (`ProgramEach`), and its own
initialisers draw its weights. A supernet returns the mean of the outputs of its architectures;
their number is limited.

Scorers observe these layers: `nn.relu` or `saboc_jax.layers.ops.Relu` (NASWOT, SWAP), `ops.Block`
after the stem and each block (AZ-NAS), and an `ops.Block` named "features" before global pooling
(Zen, ETE-NAS by regression). A scorer raises an error if its layers are missing. All parameters
count as parameters of the searched cells. There is no thin cell, so use TE-NAS and TEG-NAS
without their linear regions (`regions=False`).
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array

from saboc_jax.layers.program_cost import count_work
from saboc_jax.layers.tree import Remembered
from saboc_jax.spaces.masks import architecture_to_mask, as_gates, check_architecture
from saboc_jax.types import (
    Architecture,
    Cost,
    Costs,
    Decisions,
    Gates,
    Images,
    OneProgram,
    PRNGKey,
    ProgramEach,
    SearchSpace,
    Variables,
)

MAX_MEMBERS = 64  # largest number of architectures in a supernet
CACHED = 1024  # number of cached programs
SEPARATOR = "|"
Make = Callable[[Architecture], nn.Module]


class Ensemble(nn.Module):
    """The mean of the outputs of several modules: the supernet of a space of modules."""

    members: tuple[nn.Module, ...]
    call: tuple[tuple[str, Any], ...] = ()

    def __call__(self, images: Images) -> Array:
        """Returns mean outputs [n, classes]."""
        outputs = [member(images, **dict(self.call)) for member in self.members]
        return jnp.stack(outputs).mean(0)


def module_space(
    modules: Sequence[nn.Module] | Make,
    *,
    image_shape: tuple[int, int, int],
    choices: Sequence[int] | None = None,
    option_names: Sequence[Sequence[str]] | None = None,
    call: Mapping[str, Any] | None = None,
    name: str = "module",
) -> SearchSpace:
    """Makes a search space of the user's Linen modules.

    Args:
        modules: modules, called as `module(images, **call)`, that return [n, classes]; or a
            function from an architecture [decisions] to such a module.
        image_shape: (height, width, channels) of one image.
        choices: number of options of each decision, if `modules` is a function.
        option_names: names of the options of each decision, for texts; None: numbers.
        call: keyword arguments of every call, e.g. {"train": False}. The scorers set the mode of
            batch norm themselves; dropout must be off.
        name: name of the space in messages. Results are stored under the digest of each program.

    Raises:
        ValueError: if an argument is wrong, or a module cannot run on images of that shape or
            does not return [n, classes]. Checks every module of a list, or the first and the
            last architecture of a function.

    Examples:
        >>> from flax import linen as nn
        >>> from saboc_jax.spaces.modules.space import module_space
        >>> class Net(nn.Module):
        ...     width: int
        ...     @nn.compact
        ...     def __call__(self, images):
        ...         return nn.Dense(10)(nn.relu(nn.Dense(self.width)(images.mean((1, 2)))))
        >>> space = module_space([Net(4), Net(8)], image_shape=(8, 8, 3))
        >>> space.choices, space.num_classes, space.cost([1]).params
        ((2,), 10, 122)
    """
    make, counts = _as_function(modules, choices)
    names = _names(option_names, counts)
    build = _Builder(make, counts, tuple(image_shape), tuple((call or {}).items()))
    classes = {build.classes(arch) for arch in _checked_at_once(modules, counts)}
    if len(classes) > 1:
        raise ValueError(f"the modules have {sorted(classes)} outputs; allowed: one number for all")
    facts: dict[str, Any] = {
        "image_shape": build.image_shape,
        "num_classes": classes.pop(),
        "specialise": build.module,
        "call": lambda: dict(build.call),
    }

    def program(members: tuple[tuple[int, ...], ...]) -> OneProgram:
        run = build.module(members[0]) if len(members) == 1 else build.ensemble(members)
        arguments = dict(build.call) if len(members) == 1 else {}
        return OneProgram(
            init=partial(_init, run, build.image_shape, arguments),
            apply=partial(_apply, run, arguments),
            in_cells=lambda path: True,
            **facts,
        )

    programs = Remembered(program, CACHED)
    return SearchSpace(
        name=name,
        decisions=Decisions(
            choices=counts,
            option_names=names,
            to_string=partial(_to_string, names),
            from_string=partial(_from_string, names),
            gates=partial(as_gates, choices=counts),
            canonical=partial(_to_string, names),
            is_connected=lambda mask: True,
        ),
        networks=ProgramEach(program=lambda mask: programs(_members(mask, counts, name)), **facts),
        costs=Costs(build.cost),
    )


class _Builder:
    """Makes the modules and computes their output widths and costs."""

    def __init__(
        self,
        make: Make,
        choices: tuple[int, ...],
        image_shape: tuple[int, ...],
        call: tuple[tuple[str, Any], ...],
    ) -> None:
        if len(image_shape) != 3 or min(image_shape) < 1:
            raise ValueError(
                f"image_shape={image_shape}; allowed: (height, width, channels), each 1 or more"
            )
        self.make, self.choices, self.call = make, choices, call
        self.image_shape: Any = image_shape
        self._costs: dict[tuple[int, ...], Cost] = {}

    def module(self, arch: Any) -> nn.Module:
        """Returns the module of an architecture."""
        module = self.make(check_architecture(np.asarray(arch), self.choices))
        if not isinstance(module, nn.Module):
            raise ValueError(
                f"architecture {list(map(int, arch))} is a {type(module).__name__}; allowed: a "
                "flax.linen.Module (an nnx module through `saboc_jax.from_nnx`)"
            )
        return module

    def ensemble(self, members: Sequence[Any]) -> nn.Module:
        """Returns the supernet of several architectures."""
        return Ensemble(tuple(self.module(member) for member in members), self.call)

    def _shapes(self, arch: Any) -> tuple[nn.Module, Any, Any]:
        """Returns (module, shapes of its variables, shape of its outputs)."""
        module, call = self.module(arch), dict(self.call)
        images = jax.ShapeDtypeStruct((2, *self.image_shape), jnp.float32)
        try:
            variables = jax.eval_shape(partial(_init, module, self.image_shape, call), _key())
            apply = partial(_apply, module, call, gates=None, mutable=("batch_stats",))
            outputs = jax.eval_shape(lambda v, x: apply(v, images=x)[0], variables, images)
        except Exception as error:  # a user's module may raise anything
            raise ValueError(
                f"architecture {list(map(int, arch))} ({type(module).__name__}) cannot be run on "
                f"images of shape {self.image_shape} with {call}: {error}"
            ) from error
        return module, variables, outputs

    def classes(self, arch: Any) -> int:
        """Returns the width of the outputs of an architecture."""
        module, _, outputs = self._shapes(arch)
        shape: Any = getattr(outputs, "shape", ())
        if len(shape) != 2 or shape[0] != 2:
            raise ValueError(
                f"architecture {list(map(int, arch))} ({type(module).__name__}) gives {shape} for "
                "2 images; allowed: (2, classes)"
            )
        return int(shape[1])

    def cost(self, arch: Any) -> Cost:
        """Returns the parameters, and multiply-accumulates and depth of the traced program."""
        key = tuple(map(int, check_architecture(arch, self.choices)))
        if key not in self._costs:
            module, variables, _ = self._shapes(arch)
            params = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
            one = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)
            apply = partial(_apply, module, dict(self.call), gates=None, mutable=("batch_stats",))
            work = count_work(lambda v, x: apply(v, images=x)[0], variables, one)
            self._costs[key] = Cost(params, *work)
        return self._costs[key]


def _key() -> PRNGKey:
    return jax.random.key(0)


def _init(
    module: nn.Module, image_shape: tuple[int, ...], call: dict[str, Any], key: PRNGKey
) -> Variables:
    """Draws the variables by the module's own initialisers; `key` is consumed."""
    keys = dict(zip(("params", "dropout"), jax.random.split(key), strict=True))
    variables: Any = nn.unbox(module.init(keys, jnp.zeros((1, *image_shape)), **call))
    if not variables.get("params"):
        raise ValueError(f"module {type(module).__name__} has no parameters; allowed: some")
    return {name: tree for name, tree in variables.items() if name != "intermediates"}


def _apply(
    module: nn.Module,
    call: dict[str, Any],
    variables: Variables,
    gates: Gates | None,
    images: Images,
    mutable: Sequence[str] = (),
) -> tuple[Array, Variables]:
    return module.apply(variables, images, mutable=list(mutable), **call)


def _as_function(
    modules: Sequence[nn.Module] | Make, choices: Sequence[int] | None
) -> tuple[Make, tuple[int, ...]]:
    """Returns the modules as a function, and the choices."""
    if callable(modules) and not isinstance(modules, nn.Module):
        if not choices or min(choices) < 1:
            raise ValueError(
                f"choices={choices}; allowed with a function: one number of options, 1 or more, "
                "for each decision"
            )
        return modules, tuple(map(int, choices))
    if isinstance(modules, nn.Module) or not len(modules):
        raise ValueError(f"modules={modules!r}; allowed: a list of modules, or a function")
    if choices is not None and tuple(choices) != (len(modules),):
        raise ValueError(f"choices={choices}; allowed with a list of {len(modules)}: None")
    listed = tuple(modules)
    return lambda arch: listed[int(arch[0])], (len(listed),)


def _checked_at_once(
    modules: Sequence[nn.Module] | Make, choices: tuple[int, ...]
) -> list[np.ndarray]:
    """Returns every architecture of a list, or the first and the last of a function."""
    if not callable(modules):
        return [np.array([option]) for option in range(choices[0])]
    return [np.zeros(len(choices), int), np.array(choices) - 1]


def _names(
    names: Sequence[Sequence[str]] | None, choices: tuple[int, ...]
) -> tuple[tuple[str, ...], ...]:
    if names is None:
        return tuple(tuple(map(str, range(number))) for number in choices)
    given = tuple(tuple(map(str, decision)) for decision in names)
    if tuple(map(len, given)) != choices or any(len(set(d)) < len(d) for d in given):
        raise ValueError(
            f"option_names={given}; allowed: distinct names, as many as choices={choices}"
        )
    if any(SEPARATOR in option for decision in given for option in decision):
        raise ValueError(f"option_names={given}; allowed: names without {SEPARATOR!r}")
    return given


def _to_string(names: tuple[tuple[str, ...], ...], arch: Architecture) -> str:
    options = check_architecture(arch, tuple(map(len, names)))
    return SEPARATOR.join(names[d][option] for d, option in enumerate(options))


def _from_string(names: tuple[tuple[str, ...], ...], text: str) -> Architecture:
    parts = text.split(SEPARATOR)
    if len(parts) != len(names):
        raise ValueError(f"{text!r} has {len(parts)} parts; allowed: {len(names)}")
    for part, options in zip(parts, names, strict=True):
        if part not in options:
            raise ValueError(f"{text!r}: {part!r} is no option; allowed: {', '.join(options)}")
    return np.array([options.index(part) for part, options in zip(parts, names, strict=True)])


def _members(mask: Any, choices: tuple[int, ...], name: str) -> tuple[tuple[int, ...], ...]:
    """Returns the architectures of a mask (or the given architecture).

    Raises:
        ValueError: if there are none or more than `MAX_MEMBERS`.
    """
    active = np.asarray(mask)
    if active.ndim == 1:
        active = architecture_to_mask(check_architecture(active, choices), max(choices))
    if active.shape != (len(choices), max(choices)):
        raise ValueError(f"mask of shape {active.shape}; allowed: {(len(choices), max(choices))}")
    options = [np.flatnonzero(row).tolist() for row in active]
    number = int(np.prod([len(o) for o in options], dtype=float))
    if not 1 <= number <= MAX_MEMBERS:
        raise ValueError(
            f"the mask holds {number} architectures of space {name!r}; allowed: 1 to "
            f"{MAX_MEMBERS}, or a searcher that asks for single architectures"
        )
    return tuple(itertools.product(*options))
