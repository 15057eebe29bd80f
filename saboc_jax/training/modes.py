"""Finds how a module is called to train it and to evaluate it: by what it does, not by names.

A module trains where it draws random numbers (dropout) or writes its state (running statistics);
evaluated, it does neither. Its boolean keywords, under whatever name, are turned until it does.
Fields of a module are turned only if their name says that they are its mode, because any other
field is a part of the network. What cannot be brought to train, or to stop training, is refused.
"""

import inspect
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import errors
from flax import linen as nn
from jax.extend import core

from saboc_jax.types import Images, Variables

MODE_NAMES = (
    *("train", "training", "is_training", "deterministic", "use_running_average", "inference"),
    *("is_train", "eval", "evaluate", "eval_mode", "is_eval", "test", "testing", "is_testing"),
)
"""Names that say "mode": turned first among keywords, and alone among fields."""

STREAMS = ("params", "dropout", "drop_path")
"""Random streams that are given; Flax serves every stream of another name from "params"."""

MOST_MISSING = 4  # keywords without a value that are tried


class Call(NamedTuple):
    """A module in one mode, and the keyword arguments of its call in that mode."""

    module: nn.Module
    keywords: Mapping[str, Any]


class Modes(NamedTuple):
    """How a module is called.

    Attributes:
        training: drops units and moves running statistics, if the module has any.
        evaluation: draws no random numbers and changes nothing.
        moved: collections of variables that a step of training may change.
    """

    training: Call
    evaluation: Call
    moved: tuple[str, ...]


def find_modes(
    module: nn.Module,
    images: Images,
    num_classes: int,
    call: Mapping[str, Any] | None = None,
    train_call: Mapping[str, Any] | None = None,
) -> Modes:
    """Finds how a module is called to train and to evaluate it; traces it, computes nothing.

    Args:
        module: maps images to outputs [n, classes], or to (outputs, auxiliary outputs or None).
        images: [1, ...] an image, of which type and shape are used.
        num_classes: width of the outputs.
        call: keyword arguments of every call.
        train_call: those of training, besides `call`; None: they are found.

    Raises:
        ValueError: if the module cannot be called so, does not train, or cannot be evaluated.
    """
    call = dict(call or {})
    base = _callable(_Trial(images, Call(module, call)))
    if not base.variables().get("params"):
        raise ValueError(f"{type(module).__name__} has no parameters; allowed: some to train")
    if train_call is not None:
        training = base.turned(**train_call)
        if training.activity() < 0:
            raise ValueError(f"{training}: {training.fault}")
        evaluation = base
    else:
        training, evaluation = _turned_up(base), _turned_down(base)
        _check_trains(training)
    if evaluation.activity() > 0:
        raise ValueError(
            f"{evaluation} draws random numbers or changes its state, in evaluation as well; "
            "allowed: a module that a boolean keyword (train) or call={...} turns to evaluation"
        )
    _check_outputs(evaluation, num_classes)
    return Modes(training.call, evaluation.call, training.moved())


class _Trial:
    """Traces a module in one mode.

    Attributes:
        call: the module and its keywords.
        fault: why it cannot be called so; "" if it can, or was not tried.
    """

    def __init__(self, images: Images, call: Call, variables: Any = None) -> None:
        self.call, self.fault = call, ""
        self._images, self._variables = images, variables
        self._activity: int | None = None

    def __str__(self) -> str:
        return f"{type(self.call.module).__name__} with {dict(self.call.keywords)}"

    def turned(self, **values: Any) -> "_Trial":
        """Returns the trial with other keywords."""
        keywords = {**self.call.keywords, **values}
        return _Trial(self._images, Call(self.call.module, keywords), self._variables)

    def cloned(self, **fields: Any) -> "_Trial":
        """Returns the trial of the module with other fields."""
        call = Call(self.call.module.clone(**fields), self.call.keywords)
        return _Trial(self._images, call, self._variables)

    def variables(self) -> Variables:
        """Returns the shapes of all variables but what is sown."""
        if self._variables is None:
            init = partial(init_variables, self.call)
            keys = dict.fromkeys(STREAMS, jax.eval_shape(lambda: jax.random.key(0)))
            self._variables = jax.eval_shape(init, keys, self._images)
        return self._variables

    def outputs(self, streams: tuple[str, ...], mutable: tuple[str, ...]) -> Any:
        """Returns the shapes of (outputs, changed collections) for two images."""
        key = jax.eval_shape(lambda: jax.random.key(0))
        keys = dict.fromkeys(streams, key)
        return jax.eval_shape(self._run(mutable), self.variables(), self._two(), keys)

    def _two(self) -> Any:
        return jax.ShapeDtypeStruct((2, *self._images.shape[1:]), self._images.dtype)

    def _run(self, mutable: tuple[str, ...]) -> Callable[..., Any]:
        def run(variables: Any, images: Any, keys: Any) -> Any:
            module, keywords = self.call
            return module.apply(variables, images, rngs=keys, mutable=list(mutable), **keywords)

        return run

    def activity(self) -> int:
        """Returns how many of two things it does: draw numbers, write its state; -1: it fails."""
        if self._activity is None:
            try:
                self._activity = self.draws() + self.writes()
            except Exception as error:  # a user's module may raise anything
                self.fault, self._activity = _first_line(error), -1
        return self._activity

    def writes(self) -> bool:
        """Returns whether it gives another state than it was given."""
        key = jax.eval_shape(lambda: jax.random.key(0))
        before = {name: self.variables()[name] for name in self._state()}
        program, after = jax.make_jaxpr(self._run(self._state()), return_shape=True)(
            self.variables(), self._two(), dict.fromkeys(STREAMS, key)
        )
        places = {path: place for place, (path, _) in enumerate(_leaves(self.variables()))}
        kept = [path for path, _ in _leaves(before)]
        given = dict(
            zip((path for path, _ in _leaves(after)), _forwarded(program.jaxpr), strict=True)
        )
        return any(given.get(f"[1]{path}", places[path]) != places[path] for path in kept)

    def draws(self) -> bool:
        """Returns whether it draws random numbers."""
        try:
            self.outputs((), self._state())
        except errors.InvalidRngError:
            return True
        return False

    def moved(self) -> tuple[str, ...]:
        """Returns the collections that have the same form after a call; what is sown grows."""
        state = self._state()
        after = self.outputs(STREAMS, state)[1]
        own = self.variables()
        return tuple(
            name for name in state if name in after and _form(after[name]) == _form(own[name])
        )

    def _state(self) -> tuple[str, ...]:
        return tuple(name for name in self.variables() if name != "params")


def init_variables(call: Call, keys: Mapping[str, Any], images: Images) -> Variables:
    """Draws the variables of a module, without what it sows for others to look at."""
    variables: Any = nn.unbox(call.module.init(dict(keys), images, **call.keywords))
    return {name: tree for name, tree in variables.items() if name != "intermediates"}


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(nn.unbox(tree))
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]


def _forwarded(jaxpr: Any) -> list[int | None]:
    """Returns for every output of a program the place of the input that it is; None: of none.

    It looks into calls and scans: `nn.jit` and `nn.scan` return the whole state, changed or not.
    """
    place = {variable: number for number, variable in enumerate(jaxpr.invars)}
    for equation in jaxpr.eqns:
        inner = equation.params.get("jaxpr")
        inner = getattr(inner, "jaxpr", inner)
        if inner is None or len(inner.invars) != len(equation.invars):
            continue
        for output, number in zip(equation.outvars, _forwarded(inner), strict=False):
            source = None if number is None else equation.invars[number]
            if not isinstance(source, core.Literal) and source in place:
                place[output] = place[source]
    return [None if isinstance(v, core.Literal) else place.get(v) for v in jaxpr.outvars]


def _form(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), nn.unbox(tree))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _callable(trial: _Trial) -> _Trial:
    """Returns the trial with values for the keywords that have none, as far as it needs them.

    Raises:
        ValueError: if the module cannot be called.
    """
    if trial.activity() >= 0:
        return trial
    fault = trial.fault
    missing = [name for name, value in _keywords(trial.call) if value is None][:MOST_MISSING]
    for values in itertools.product((False, True), repeat=len(missing)):
        given = trial.turned(**dict(zip(missing, values, strict=True)))
        if missing and given.activity() >= 0:
            return given
    raise ValueError(
        f"{trial} cannot be called on an image of shape {trial._images.shape[1:]}: {fault}"
    )


def _turned_up(base: _Trial) -> _Trial:
    """Returns the mode that does most, with as few flags turned as that takes."""
    best = base
    for other in _turns(base):
        trial = other(best)
        if best.activity() < 2 and trial.activity() > best.activity():
            best = trial
    return best


def _turned_down(base: _Trial) -> _Trial:
    """Returns the mode that does nothing or least, with as few flags turned as that takes."""
    best = base
    for other in _turns(base):
        if best.activity() > 0:
            trial = other(best)
            best = trial if 0 <= trial.activity() < best.activity() else best
    return best


def _turns(base: _Trial) -> Iterator[Any]:
    """Yields functions that turn one flag of a trial; flags whose name says "mode" come first."""
    keywords = sorted(_keywords(base.call), key=lambda pair: pair[0] not in MODE_NAMES)
    for name, value in keywords:
        for new in {True, False} - {value}:
            yield lambda trial, name=name, new=new: trial.turned(**{name: new})
    for name in MODE_NAMES:
        field: Any = getattr(base.call.module, name, "no field")
        if field is None or isinstance(field, bool):
            for new in {True, False} - {field}:
                yield lambda trial, name=name, new=new: trial.cloned(**{name: new})


def _keywords(call: Call) -> list[tuple[str, bool | None]]:
    """Returns the keywords that can be flags, with their values; None: no value."""
    found: dict[str, bool | None] = {}
    accepted = list(inspect.signature(type(call.module).__call__).parameters.values())[2:]
    for each in accepted:
        default = each.default
        named = each.name in MODE_NAMES or "bool" in str(each.annotation)
        missing = default is inspect.Parameter.empty and each.kind not in (
            inspect.Parameter.VAR_KEYWORD,
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.POSITIONAL_ONLY,
        )
        if isinstance(default, bool) or missing or (default is None and named):
            found[each.name] = default if isinstance(default, bool) else None
    given = {name: value for name, value in call.keywords.items() if isinstance(value, bool)}
    absent = {name for name, value in call.keywords.items() if not isinstance(value, bool)}
    return [(name, value) for name, value in (found | given).items() if name not in absent]


def _check_trains(trial: _Trial) -> None:
    """Raises ValueError if running statistics never move or dropout never drops."""
    lacking = ""
    if "batch_stats" in trial.variables() and not trial.writes():
        lacking = "its running statistics never move"
    elif _has_dropout(trial) and not trial.draws():
        lacking = "its dropout never drops"
    if lacking:
        raise ValueError(
            f"{type(trial.call.module).__name__} under none of its boolean keywords trains: "
            f"{lacking}; allowed: a module with a keyword for it (train), train_call={{...}}, or "
            "train_call={} to train it so"
        )


def _has_dropout(trial: _Trial) -> bool:
    """Returns whether a dropout of a rate above 0 is called."""
    rates = [0.0, *_nnx_rates(trial.call.module)]

    def note(run: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, nn.Dropout):
            rates.append(context.module.rate)
        return run(*args, **kwargs)

    with nn.intercept_methods(note):
        trial.outputs(STREAMS, trial._state())
    return max(rates) > 0


def _nnx_rates(module: nn.Module) -> list[float]:
    """Returns the rates of dropout in an nnx module, which evaluates whatever its keywords are."""
    if "saboc_jax.layers.nnx" not in sys.modules:  # flax.nnx takes long to import
        return []
    from flax import nnx

    from saboc_jax.layers.nnx import FromNnx

    if not isinstance(module, FromNnx):
        return []
    nodes = nnx.iter_graph(module.definition.make(nnx.Rngs(0)))
    return [node.rate for _, node in nodes if isinstance(node, nnx.Dropout)]


def _check_outputs(trial: _Trial, num_classes: int) -> None:
    """Raises ValueError unless a module gives [n, classes], alone or with auxiliary outputs."""
    outputs = trial.outputs((), ())[0]
    parts = outputs if isinstance(outputs, tuple) else (outputs, None)
    shapes = [getattr(part, "shape", None) for part in parts if part is not None]
    if len(parts) != 2 or not shapes or set(shapes) != {(2, num_classes)}:
        raise ValueError(
            f"{trial} gives outputs of shape {shapes} for 2 images; allowed: (2, {num_classes}), "
            "alone or before auxiliary outputs"
        )


def example(images: np.ndarray) -> Any:
    """Returns the type and shape of one image, as a batch of one."""
    return jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.asarray(images[:1]).dtype)
