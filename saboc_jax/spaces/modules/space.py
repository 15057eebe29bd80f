"""The user's own Flax modules as a search space.

`module_space` takes a list of Linen modules (with one decision: which module), or a function from
an architecture to a Linen module. `nnx.from_nnx` converts an nnx module to a Linen module.

Every architecture has its own program, compiled separately (`ProgramEach`), and its own
initialisers draw its weights. A supernet returns the mean of the outputs of its architectures;
their number is limited.

Scorers that look inside find activations, feature maps, blocks and layers in the program
(`layers.landmarks`), or where `layers.ops.Block` and `layers.ops.Relu` mark them. All parameters
count as parameters of the searched cells. There is no thin cell, so use TE-NAS and TEG-NAS
without their linear regions (`regions=False`).
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from saboc_jax.layers.losses import LOSSES
from saboc_jax.layers.program_cost import count_work
from saboc_jax.layers.tree import Remembered
from saboc_jax.spaces.masks import architecture_to_mask, as_gates, check_architecture
from saboc_jax.spaces.modules.models import Model, Output, as_model, is_candidate
from saboc_jax.spaces.modules.redraw import without_zeros
from saboc_jax.spaces.modules.several import as_ensemble
from saboc_jax.types import (
    Architecture,
    Cost,
    Costs,
    Decisions,
    OneProgram,
    PRNGKey,
    ProgramEach,
    SearchSpace,
)

MAX_MEMBERS = 64  # largest number of architectures in a supernet
CACHED = 1024  # number of cached programs
FEW = 2  # of those that are made when they are needed
SHOWN = 20  # options that a message lists
SEPARATOR = "|"
Make = Callable[[Architecture], Any]


def module_space(
    modules: Sequence[Any] | Make,
    *,
    image_shape: tuple[int, int, int] | None = None,
    inputs: Any = None,
    choices: Sequence[int] | None = None,
    option_names: Sequence[Sequence[str]] | None = None,
    call: Mapping[str, Any] | None = None,
    rngs: Any = None,
    output: Output = None,
    num_classes: int | None = None,
    redraw_zeros: bool = False,
    loss: str = "cross_entropy",
    strict: bool = True,
    name: str = "module",
) -> SearchSpace:
    """Makes a search space of the user's networks.

    Args:
        modules: candidates (`models.as_model`), called as `module(inputs, **call)`, that return
            [n, classes]; or a function from an architecture [decisions] to such a candidate.
        image_shape: (height, width, channels) of one image.
        inputs: in place of `image_shape`: the shapes of one example, a tree of
            `jax.ShapeDtypeStruct`s without an axis of examples.
        choices: number of options of each decision, if `modules` is a function.
        option_names: names of the options of each decision, for texts; None: numbers.
        call: keyword arguments of every call, e.g. {"train": False}. The scorers set the mode of
            batch norm themselves; dropout is off.
        rngs: random streams that a module's evaluation mode needs.
        output: which outputs count, see `models.reduced`; None: they are [n, classes].
        num_classes: how many outputs all have; None: it is asked of the candidates.
        redraw_zeros: draw weights anew that a module starts at zero (`redraw.without_zeros`).
        loss: "cross_entropy", or "square" of floating-point targets.
        strict: check candidates at once. False: the first that can be run says how many outputs
            all have, unless that is given; what is wrong with another is raised when it is needed,
            and few programs are kept, for they hold their networks.
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
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r}; allowed: {LOSSES}")
    make, counts = _as_function(modules, choices)
    names = _names(option_names, counts)
    build = _Builder(
        make, counts, _example(image_shape, inputs), dict(call or {}), rngs, output, redraw_zeros
    )
    if num_classes is None or strict:
        own = build.common_classes(_checked_at_once(modules, counts), strict)
        if num_classes not in (None, own):
            raise ValueError(f"num_classes={num_classes}; the modules have {own} outputs")
        num_classes = own
    facts: dict[str, Any] = {
        "image_shape": build.image_shape,
        "example": build.example,
        "num_classes": num_classes,
        "specialise": build.module,
        "call": lambda: dict(build.call),
        "loss": loss,
    }

    def program(members: tuple[tuple[int, ...], ...]) -> OneProgram:
        if not strict:
            build.check_classes(members, num_classes)
        models = [build.model(member) for member in members]
        model = models[0] if len(models) == 1 else as_ensemble(models)
        return OneProgram(
            init=model.draw,
            apply=partial(_apply, model),
            train=model.network.train,
            in_cells=lambda path: True,
            name=model.name,
            **facts,
        )

    programs = Remembered(program, CACHED if strict else FEW)
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
        networks=ProgramEach(
            program=lambda mask: programs(_members(mask, counts, name)),
            checked=strict,
            **facts,
        ),
        costs=Costs(build.cost),
    )


def _example(image_shape: tuple[int, ...] | None, inputs: Any) -> Any:
    """Returns the shapes of one example."""
    if inputs is not None:
        return inputs
    if image_shape is None or len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(
            f"image_shape={image_shape}; allowed: (height, width, channels), each 1 or more"
        )
    return jax.ShapeDtypeStruct(tuple(image_shape), jnp.float32)


class _Builder:
    """Makes the models and computes their output widths and costs."""

    def __init__(
        self,
        make: Make,
        choices: tuple[int, ...],
        example: Any,
        call: dict[str, Any],
        rngs: Any,
        output: Output,
        redraw_zeros: bool,
    ) -> None:
        self.make, self.choices, self.call = make, choices, call
        self.example, self.rngs, self.output = example, rngs, output
        self.redraw_zeros = redraw_zeros
        leaves = jax.tree.leaves(example)
        self.image_shape: Any = leaves[0].shape if len(leaves) == 1 else ()
        self._costs: dict[tuple[int, ...], Cost] = {}

    def model(self, arch: Any) -> Model:
        """Returns the model of an architecture."""
        given = self.make(check_architecture(np.asarray(arch), self.choices))
        if not is_candidate(given):
            raise ValueError(
                f"architecture {list(map(int, arch))} is a {type(given).__name__}; allowed: a "
                "flax.linen.Module, an nnx module, or a network (saboc_jax.from_function)"
            )
        one = _batch_of(self.example, 1)
        model = as_model(given, one, self.call, self.rngs, self.output)
        return without_zeros(model, one) if self.redraw_zeros else model

    def module(self, arch: Any) -> nn.Module:
        """Returns the module of an architecture, to train it."""
        model = self.model(arch)
        if model.module is None:
            raise ValueError(
                f"{model.name} is not a Flax module with outputs [n, classes]; allowed for "
                "training: a flax.linen.Module or an nnx module, without output="
            )
        return model.module

    def _shapes(self, arch: Any) -> tuple[Model, Any, Any]:
        """Returns (model, shapes of its variables, shape of its outputs)."""
        model = self.model(arch)
        try:
            variables = jax.eval_shape(model.draw, _key())
            outputs = jax.eval_shape(
                lambda v, x: model.network.apply(v, x)[0], variables, _batch_of(self.example, 2)
            )
        except Exception as error:  # a user's module may raise anything
            shapes = jax.tree.map(lambda leaf: (*leaf.shape, str(leaf.dtype)), self.example)
            raise ValueError(
                f"architecture {list(map(int, arch))} ({model.name}) cannot be run on "
                f"examples of shape {shapes} with {self.call}: {str(error) or repr(error)}"
            ) from error
        return model, variables, outputs

    def classes(self, arch: Any) -> int:
        """Returns the width of the outputs of an architecture."""
        model, _, outputs = self._shapes(arch)
        shape: Any = getattr(outputs, "shape", None)
        if shape is None or len(shape) != 2 or shape[0] != 2:
            given = f"outputs of shape {shape}" if shape is not None else _described(outputs)
            raise ValueError(
                f"architecture {list(map(int, arch))} ({model.name}) gives {given} for a batch of "
                "2; allowed: (2, classes), or output= that picks or reduces them ('sum', 'mean' "
                "or 'flat' over positions, a name of several outputs, a function)"
            )
        return int(shape[1])

    def common_classes(self, archs: Sequence[Any], strict: bool) -> int:
        """Returns the width of the outputs of all architectures.

        Args:
            archs: the architectures.
            strict: ask all; False: the first that can be run.
        """
        if strict:
            classes = {self.classes(arch) for arch in archs}
            if len(classes) > 1:
                raise ValueError(
                    f"the modules have {sorted(classes)} outputs; allowed: one number for all"
                )
            return classes.pop()
        refused: ValueError | None = None
        for arch in archs:
            try:
                return self.classes(arch)
            except ValueError as error:
                refused = refused or error
        raise refused or ValueError("there are no modules; allowed: one or more")

    def check_classes(self, archs: Sequence[Any], allowed: int) -> None:
        """Raises ValueError if an architecture cannot be run, or has another number of outputs."""
        for arch in archs:
            if (own := self.classes(arch)) != allowed:
                raise ValueError(f"it has {own} outputs; allowed: {allowed}, as the others have")

    def cost(self, arch: Any) -> Cost:
        """Returns the parameters, and multiply-accumulates and depth of the traced program."""
        key = tuple(map(int, check_architecture(arch, self.choices)))
        if key not in self._costs:
            model, variables, _ = self._shapes(arch)
            params = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
            run = lambda v, x: model.network.apply(v, x)[0]  # noqa: E731
            work = count_work(run, variables, _batch_of(self.example, 1))
            self._costs[key] = Cost(params, *work)
        return self._costs[key]


def _described(outputs: Any) -> str:
    names = f" with {', '.join(map(repr, outputs))}" if isinstance(outputs, Mapping) else ""
    return f"a {type(outputs).__name__}{names}"


def _batch_of(example: Any, number: int) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((number, *leaf.shape), leaf.dtype), example
    )


def _key() -> PRNGKey:
    return jax.random.key(0)


def _apply(model: Model, variables: Any, gates: Any, images: Any, mutable: Any = ()) -> Any:
    return model.network.apply(variables, images, mutable)


def _as_function(
    modules: Sequence[Any] | Make, choices: Sequence[int] | None
) -> tuple[Make, tuple[int, ...]]:
    """Returns the modules as a function, and the choices."""
    if callable(modules) and not is_candidate(modules):
        if not choices or min(choices) < 1:
            raise ValueError(
                f"choices={choices}; allowed with a function: one number of options, 1 or more, "
                "for each decision"
            )
        return modules, tuple(map(int, choices))
    listed = () if is_candidate(modules) else tuple(modules)  # type: ignore[arg-type]
    if not listed:
        raise ValueError(f"modules={modules!r}; allowed: a list of modules, or a function")
    if choices is not None and tuple(choices) != (len(listed),):
        raise ValueError(f"choices={choices}; allowed with a list of {len(listed)}: None")
    return lambda arch: listed[int(arch[0])], (len(listed),)


def _checked_at_once(modules: Sequence[Any] | Make, choices: tuple[int, ...]) -> list[np.ndarray]:
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
            raise ValueError(f"{text!r}: {part!r} is no option; allowed: {_some(options, part)}")
    return np.array([options.index(part) for part, options in zip(parts, names, strict=True)])


def _some(options: Sequence[str], given: str) -> str:
    """Returns all options, or of many those that are written alike."""
    if len(options) <= SHOWN:
        return ", ".join(options)
    return f"one of {len(options)}, such as {', '.join(near(given, options))}"


def near(given: str, known: Sequence[str]) -> Sequence[str]:
    """Returns up to three names that are written alike; the first three if none is."""
    return get_close_matches(given, known, n=3) or known[:3]


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
