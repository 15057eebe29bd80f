"""Trains the plain Flax module of an architecture: SGD-Nesterov, cosine, running statistics.

A run is a pure function of (module, images, recipe, seed): an epoch's order, its augmentation
and its dropped paths are drawn from (seed, epoch), so a killed run resumes from its last
checkpoint and gives the same bits. Each device takes an equal part of every batch; batch norm
statistics are those of the whole batch, so the results do not depend on the number of devices.

`saboc_jax.training.modes` finds how a module is called in training. A module may take the keyword
`drop_path` (a probability; randomness named "drop_path"), and may return (outputs, auxiliary
outputs or None).
"""

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from saboc_jax.keys import Purpose, key_for, key_numbered, root_key
from saboc_jax.layers.losses import cross_entropy
from saboc_jax.training.augment import epoch_batches
from saboc_jax.training.modes import Modes, example, find_modes, init_variables
from saboc_jax.training.recipes import Recipe
from saboc_jax.types import Images, PRNGKey, Targets, Variables

Metrics = dict[str, float]


class State(NamedTuple):
    """Everything that training changes; a pytree of arrays.

    Attributes:
        params: weights.
        collections: all other collections of the module's variables, such as "batch_stats".
        opt_state: state of the optax optimiser.
        step: number of steps done.
    """

    params: Any
    collections: Any
    opt_state: Any
    step: Int[Array, ""]

    @property
    def batch_stats(self) -> Any:
        """Running statistics; {} if the module has none."""
        return self.collections.get("batch_stats", {})


class Examples(NamedTuple):
    """Images and labels in host memory.

    Attributes:
        images: [n, h, w, c] float32, normalised.
        labels: [n] int32.
    """

    images: Float[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, " n"]


class Trainer(NamedTuple):
    """Compiled training functions of a module, made by `make_trainer`.

    Attributes:
        init: `init()` returns the state before the first step.
        train_epoch: `train_epoch(state, epoch)` returns (state, metrics).
        evaluate: `evaluate(state, examples)` returns metrics computed with running statistics.
        modes: how the module is called.
    """

    init: Callable[[], State]
    train_epoch: Callable[[State, int], tuple[State, Metrics]]
    evaluate: Callable[[State, Examples], Metrics]
    modes: Modes


def learning_rate(recipe: Recipe, steps_per_epoch: int) -> optax.Schedule:
    """Returns the rate per step: a linear warm-up from 0, then a cosine to the final rate.

    Deviation: DARTS' code changes the rate once per epoch.
    """
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    total = recipe.epochs * steps_per_epoch
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup else recipe.learning_rate,
        peak_value=recipe.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(total, warmup + 1),
        end_value=recipe.final_learning_rate,
    )


def optimiser(recipe: Recipe, steps_per_epoch: int) -> optax.GradientTransformation:
    """Returns PyTorch's SGD: clipping, weight decay added to the gradient, momentum."""
    parts = [optax.clip_by_global_norm(recipe.clip)] if recipe.clip else []
    if recipe.weight_decay:
        mask = _are_kernels if recipe.decay_kernels_only else None
        parts.append(optax.add_decayed_weights(recipe.weight_decay, mask))
    rate = learning_rate(recipe, steps_per_epoch)
    return optax.chain(*parts, optax.sgd(rate, recipe.momentum or None, nesterov=recipe.nesterov))


def _are_kernels(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def make_trainer(
    module: nn.Module,
    examples: Examples,
    num_classes: int,
    recipe: Recipe,
    seed: int,
    devices: list[Any] | None = None,
    on_batch: Callable[[], None] | None = None,
    call: Mapping[str, Any] | None = None,
    train_call: Mapping[str, Any] | None = None,
) -> Trainer:
    """Compiles the training of a module.

    Args:
        module: maps images to outputs [n, classes].
        examples: training examples.
        num_classes: width of the outputs.
        recipe: the settings.
        seed: seed of weights, order, augmentation and dropped paths.
        devices: devices to train on; None: all.
        on_batch: called after every step of training.
        call: keyword arguments of every call of the module.
        train_call: those of training, besides `call`; None: they are found.

    Raises:
        ValueError: if a batch cannot be filled or divided over the devices, or the module cannot
            be called, does not train or cannot be evaluated.
    """
    devices = jax.devices() if devices is None else devices
    _check(recipe, len(examples.images), len(devices))
    mesh = Mesh(np.array(devices), ("data",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    divided = NamedSharding(mesh, PartitionSpec("data"))
    steps = len(examples.images) // recipe.batch_size
    tx = optimiser(recipe, steps)
    key = root_key(seed)
    modes = find_modes(module, example(examples.images), num_classes, call, train_call)
    forward = _forward(modes, recipe)

    def start() -> State:
        # With threefry, drawing all kernels would take several times longer to compile.
        keys = {"params": jax.random.key(seed, impl="rbg"), **_streams(key)}
        variables = jax.jit(partial(init_variables, modes.evaluation))(keys, examples.images[:1])
        params = variables.pop("params")
        state = State(params, variables, tx.init(params), jnp.zeros((), jnp.int32))
        return jax.device_put(state, everywhere)

    step = jax.jit(_step(forward, tx, recipe, steps))
    look = jax.jit(_counts(forward))

    def train_epoch(state: State, epoch: int) -> tuple[State, Metrics]:
        sums: Any = None
        how = recipe.augmentation
        for batch in epoch_batches(seed, epoch, *examples, num_classes, recipe.batch_size, how):
            images, targets = jax.device_put(batch, divided)
            state, new = step(state, images, targets, key)
            sums = new if sums is None else jax.tree.map(jnp.add, sums, new)
            if on_batch:
                on_batch()
        return state, {name: float(value) / steps for name, value in sums.items()}

    def evaluate(state: State, held_out: Examples) -> Metrics:
        sums = np.zeros(3)
        size = recipe.batch_size
        for first in range(0, len(held_out.images), size):
            part = _padded(Examples(*(a[first : first + size] for a in held_out)), size)
            sums += np.asarray(look(state, *jax.device_put(part, divided)))
        loss, top1, top5 = (sums / len(held_out.images)).tolist()
        return {"loss": loss, "top1": top1, "top5": top5}

    return Trainer(start, train_epoch, evaluate, modes)


def _check(recipe: Recipe, size: int, devices: int) -> None:
    if recipe.batch_size > size:
        raise ValueError(f"batch_size={recipe.batch_size}; allowed: up to {size}, the examples")
    if recipe.batch_size % devices:
        raise ValueError(
            f"batch_size={recipe.batch_size}; allowed: multiples of {devices}, the devices"
        )


def _streams(key: PRNGKey) -> dict[str, PRNGKey]:
    """Returns keys of the random streams that modules of ours or of Flax name."""
    return {"drop_path": key, "dropout": key_for(key, Purpose.DROPOUT)}


def _forward(modes: Modes, recipe: Recipe) -> Callable[..., tuple[Array, Any, Variables]]:
    """Returns `forward`, which returns (outputs, auxiliary outputs, all collections but params)."""
    module = modes.training.module
    accepted = inspect.signature(type(module).__call__).parameters
    if recipe.drop_path and "drop_path" not in accepted:
        raise ValueError(
            f"drop_path={recipe.drop_path}; allowed: 0, for {type(module).__name__} drops no paths"
        )

    def forward(
        params: Any, others: Any, images: Images, train: bool, drop_path: Any, key: PRNGKey | None
    ) -> tuple[Array, Any, Variables]:
        run, options = modes.training if train else modes.evaluation
        if train and recipe.drop_path:
            options = {**options, "drop_path": drop_path}
        rngs = None
        if train and key is not None:
            rngs = {**_streams(key), "params": key_for(key, Purpose.OTHER_STREAMS)}
        mutable = list(modes.moved) if train else []
        variables = {"params": params, **others}
        outputs, new = run.apply(variables, images, **options, rngs=rngs, mutable=mutable)
        outputs, auxiliary = outputs if isinstance(outputs, tuple) else (outputs, None)
        return outputs, auxiliary, {**others, **new}

    return forward


def _step(
    forward: Callable[..., Any], tx: optax.GradientTransformation, recipe: Recipe, steps: int
) -> Callable[..., tuple[State, dict[str, Array]]]:
    def step(
        state: State, images: Images, targets: Targets, key: PRNGKey
    ) -> tuple[State, dict[str, Array]]:
        # The drop probability rises linearly over the epochs, as in DARTS.
        drop = recipe.drop_path * (state.step // steps) / recipe.epochs
        own = key_numbered(key, state.step)

        def loss(params: Any) -> tuple[Array, tuple[Array, Any]]:
            outputs, auxiliary, others = forward(params, state.collections, images, True, drop, own)
            value = cross_entropy(outputs, targets).mean()
            if auxiliary is not None:
                value += recipe.auxiliary_weight * cross_entropy(auxiliary, targets).mean()
            return value, (outputs, others)

        gradient = jax.value_and_grad(loss, has_aux=True)
        (value, (outputs, others)), grads = gradient(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        right = (outputs.argmax(-1) == targets.argmax(-1)).mean()
        return State(params, others, opt_state, state.step + 1), {"loss": value, "top1": right}

    return step


def _counts(forward: Callable[..., Any]) -> Callable[..., Float[Array, "3"]]:
    """Returns a function that sums the loss and counts the top-1 and top-5 hits."""

    def counts(state: State, images: Images, labels: Array) -> Float[Array, "3"]:
        outputs, _, _ = forward(state.params, state.collections, images, False, 0.0, None)
        real = labels >= 0
        own = jnp.take_along_axis(outputs, jnp.maximum(labels, 0)[:, None], 1)
        loss = jax.nn.logsumexp(outputs, -1) - own[:, 0]
        # Count ties against the network: else a constant network would be always right.
        rank = (outputs >= own).sum(-1)
        return jnp.stack([(real * value).sum() for value in (loss, rank <= 1, rank <= 5)])

    return counts


def _padded(part: Examples, size: int) -> Examples:
    missing = size - len(part.images)
    return Examples(
        np.pad(part.images, ((0, missing), (0, 0), (0, 0), (0, 0))),
        np.pad(part.labels, (0, missing), constant_values=-1),
    )


def is_finite(metrics: Metrics) -> bool:
    """Returns whether all metrics are finite; otherwise the run has diverged."""
    return all(math.isfinite(value) for value in metrics.values())
