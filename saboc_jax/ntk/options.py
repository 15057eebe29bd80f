"""Options of an NTK and their consequences: engine, parameters, outputs, batch norm, memory.

Batch norm couples the images of a batch. There are three protocols:

    frozen: the statistics are those of the columns (the training batch) and are constants.
        Images do not interact, and the kernel costs one backward pass. This is the default.
    running: the statistics that the network holds, as in its evaluation mode; for trained
        weights. One backward pass, too.
    batch: every batch is normalised by its own statistics and gradients flow through them,
        as in TE-NAS, TEG-NAS and others: n backward passes.

Engines, for any network:

    one_backward: one forward and one backward pass (`ntk.one_backward`); not for batch_norm
        "batch".
    jacobian: the Jacobian, then its inner products (`ntk.jacobian`).
    neural_tangents: `empirical_ntk_fn` of neural-tangents (`ntk.reference`). It is the reference
        for checks of the other engines; its installation is optional.
    auto: one_backward, with batch_norm "batch" jacobian.
"""

from typing import NamedTuple

from saboc_jax.layers.tree import Predicate
from saboc_jax.ntk import _neural_tangents
from saboc_jax.types import Passes

ENGINES = ("auto", "one_backward", "jacobian", "neural_tangents")
BATCH_NORMS = ("frozen", "batch", "running")
OUTPUTS = ("sum", "trace", "full")


class NTKOptions(NamedTuple):
    """How a kernel is computed; hashable.

    Attributes:
        engine: one of `ENGINES`.
        params: "weights", "all", "cells" or a predicate of a parameter path.
        outputs: "sum": f is the sum of outputs; "trace": the mean over outputs of each
            output's kernel; "full": [n, m, k, k], every pair of outputs.
        batch_norm: "frozen", "batch" or "running".
        implementation: of neural-tangents: 1 (Jacobian contraction) or 2 (NTK-vector
            products). Its automatic choice fails on current JAX.
        chunk: images in one pass, to bound memory; None: all at once. If batch norm couples the
            images: backward passes that run at once; None: `ntk.jacobian` chooses.
        outputs_chunk: for "trace" and "full": outputs that are differentiated at once, to bound
            memory; None: as many as give 256 gradients, images times outputs (`output_blocks`).
        check: verify the kernel of a network that is not of our own layers when its program is
            compiled (`ntk.check`); False: not, for tight loops.
    """

    engine: str = "auto"
    params: str | Predicate = "weights"
    outputs: str = "sum"
    batch_norm: str = "frozen"
    implementation: int = 1
    chunk: int | None = None
    outputs_chunk: int | None = None
    check: bool = True

    @property
    def is_frozen(self) -> bool:
        """Are batch-norm statistics those of the columns, as constants?"""
        return self.batch_norm == "frozen"

    @property
    def is_independent(self) -> bool:
        """Are statistics constants, so that images do not interact?"""
        return self.batch_norm != "batch"

    @property
    def may_take_one_backward(self) -> bool:
        """Does the engine `one_backward` run?"""
        return self.is_independent and self.engine in ("auto", "one_backward")

    @property
    def shares_images(self) -> bool:
        """Can several devices share the images of one kernel (`ntk.sharded`)?"""
        return self.may_take_one_backward

    @property
    def takes_chunks(self) -> bool:
        """Does `chunk` bound the images of a pass?

        Batch statistics need all images together. The engine "jacobian", if chosen by name, takes
        the whole batch; there `chunk` bounds the backward passes that run at once.
        """
        return self.is_independent and self.engine != "jacobian"

    @property
    def runs_by_links(self) -> bool:
        """Can a chain of modules run link by link (`ntk.piecewise`)?"""
        plain = self.is_frozen and self.outputs == "sum" and self.chunk is None
        return plain and self.may_take_one_backward

    def passes(self, batches: int = 1) -> Passes:
        """Returns the cost of the kernels of this many batches, including the training images.

        If images do not interact, one backward pass of a batch gives all its gradients. With
        batch statistics or the engine "jacobian", each image takes its own pass.
        """
        apart = not self.is_independent or self.engine == "jacobian"
        return Passes(batches, 0, batches) if apart else Passes(batches, batches)


DEFAULTS = NTKOptions()


def check_options(options: NTKOptions) -> NTKOptions:
    """Returns the options unchanged.

    Raises:
        ValueError: at the first invalid option.
        MissingExtraError: if the engine "neural_tangents" is chosen and not installed.
    """
    allowed = {
        "engine": ENGINES,
        "outputs": OUTPUTS,
        "batch_norm": BATCH_NORMS,
        "implementation": (1, 2),
    }
    for name, values in allowed.items():
        if getattr(options, name) not in values:
            raise ValueError(f"{name}={getattr(options, name)!r}; allowed: {values}")
    for name in ("chunk", "outputs_chunk"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}; allowed: 1 or more, or None")
    if options.engine == "one_backward" and not options.is_independent:
        raise ValueError(
            "engine 'one_backward' needs batch_norm='frozen' or 'running': with batch statistics "
            "the images of a batch interact; use engine 'jacobian' or 'neural_tangents'"
        )
    if options.engine == "neural_tangents":
        _neural_tangents.require_installed()
    return options
