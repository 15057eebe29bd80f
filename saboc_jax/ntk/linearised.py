"""Training time: outputs f(t) of a linearised network, on training and test examples.

A network that is linearised at its weights moves in function space by its kernel alone (Lee et
al. 2019): f(t) = f_0 + H a(t), and f_0 + H_X,train a(t) on other inputs. With the loss a mean over
the n training examples, L = 1/n sum_i l(f(x_i), y_i),

    gradient flow   da/dt = -g / n                     g = dl/df at f(t)
    descent         v <- m v + g / n,  a <- a - r v    learning rate r, momentum m, whole batch

"square": l = |f - y|^2 / 2, closed form in the eigenbasis (`ntk.modes`). "cross_entropy":
l = -sum y log softmax(f), integrated in function space. As t grows, square loss leads to
f_0 + H_X,train H^-1 (y - f_0), which for f_0 = 0 is the kernel regression of SABoC-NAS Eq. 6.

The kernel of outputs="full" is that of the network. One [n, n] kernel for every output ("trace",
or "sum" of a network with one output) is what wide networks tend to.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import scipy.special
from jaxtyping import Array, Float

from saboc_jax.keys import check_whole
from saboc_jax.ntk.modes import (
    Modes,
    Response,
    dense_modes,
    descent_response,
    flow_response,
    krylov_modes,
)
from saboc_jax.ntk.operator import NTKOperator

LOSSES = ("square", "cross_entropy")
STEPS = 64  # of Lanczos' recursion, for operators
EXACT = 1e-8  # relative and absolute error of outputs that are integrated
Kernel = Float[Array, "n n ..."] | Float[np.ndarray, "n n ..."] | NTKOperator


class Trajectory(NamedTuple):
    """Outputs over time.

    Attributes:
        times: [t] of gradient flow, or numbers of steps.
        train: [t, n, k].
        test: [t, m, k]; None: no rows were given.
        losses: [t] of the training examples.
    """

    times: Float[np.ndarray, " t"]
    train: Float[np.ndarray, "t n k"]
    test: Float[np.ndarray, "t m k"] | None
    losses: Float[np.ndarray, " t"]


@dataclass(frozen=True, eq=False)
class LinearisedTraining:
    """Training of a linearised network; `linearised_training` makes it.

    Attributes:
        kernel: [size, size] in float64, or an operator.
        targets: [n, k].
        outputs: [n, k] at the beginning.
        loss: "square" or "cross_entropy".
        learning_rate: of descent; None: gradient flow.
        momentum: of descent.
        steps: of Lanczos' recursion, if the kernel is an operator.
    """

    kernel: Float[np.ndarray, "size size"] | NTKOperator
    targets: Float[np.ndarray, "n k"]
    outputs: Float[np.ndarray, "n k"]
    loss: str
    learning_rate: float | None
    momentum: float
    steps: int

    def at(self, times: Any, rows: Any = None, test_outputs: Any = 0.0) -> Trajectory:
        """Returns the outputs at some times.

        Args:
            times: [t] not negative, ascending; whole numbers of steps for descent.
            rows: kernel of other inputs with the training examples, [m, n] or [m, n, k, k] like
                the kernel; if that is an operator, the inputs. None: training examples alone.
            test_outputs: [m, k], outputs of the other inputs at the beginning.

        Raises:
            ValueError: if times are not allowed, or shapes do not fit.
        """
        asked = self._checked(times)
        duals = self._square(asked) if self.loss == "square" else self._integrated(asked)
        moved = np.stack([self._multiply(each) for each in duals])
        train = self.outputs + moved.reshape(len(asked), *self.outputs.shape)
        losses = np.array([self._loss(each) for each in train])
        test = None if rows is None else self._test(rows, duals, test_outputs)
        return Trajectory(asked, train, test, losses)

    def time_to(self, loss: float, most: float = 1e5) -> float:
        """Returns when the loss of the training examples is first at most this.

        Args:
            loss: above 0.
            most: the last time, or number of steps, that is looked at.

        Returns:
            A time of gradient flow, or a number of steps; infinity: not until `most`.

        Raises:
            ValueError: if an argument is not above zero.
        """
        if not loss > 0 or not most > 0:
            raise ValueError(f"loss={loss}, most={most}; allowed: above 0")
        if self._loss(self.outputs) <= loss:
            return 0.0
        if self.learning_rate is not None:
            return self._steps_to(loss, int(most))
        return self._flow_to(loss, most)

    @property
    def learning_rate_limit(self) -> float:
        """The largest learning rate of descent at which square loss does not diverge.

        2 (1 + m) n / l_0, with l_0 the largest eigenvalue of H: the loss is a mean over examples.
        """
        return learning_rate_limit(self.largest, len(self.targets), self.momentum)

    @cached_property
    def largest(self) -> float:
        """The largest eigenvalue of the kernel."""
        if isinstance(self.kernel, NTKOperator):
            return float(self.kernel.top_eigenvalues(1)[0])
        return float(np.linalg.eigvalsh(self.kernel)[-1])

    # --- square loss --------------------------------------------------------------------------

    @cached_property
    def _modes(self) -> Modes:
        errors = self._columns(self.outputs - self.targets)
        if isinstance(self.kernel, NTKOperator):
            return krylov_modes(self.kernel, errors, self.steps)
        return dense_modes(self.kernel, errors)

    def _response(self, time: float) -> Response:
        number = len(self.targets)
        if self.learning_rate is None:
            return flow_response(time, number)
        return descent_response(int(time), number, self.learning_rate, self.momentum)

    def _square(self, times: np.ndarray) -> list[np.ndarray]:
        return [self._modes.duals(self._response(time)) for time in times]

    # --- function space -----------------------------------------------------------------------

    def _gradient(self, outputs: np.ndarray) -> np.ndarray:
        """Returns dl/df of every example."""
        if self.loss == "square":
            return outputs - self.targets
        return (
            np.exp(scipy.special.log_softmax(outputs, axis=1)) * self.targets.sum(1, keepdims=True)
            - self.targets
        )

    def _loss(self, outputs: np.ndarray) -> float:
        if self.loss == "square":
            return float(np.square(outputs - self.targets).sum() / (2 * len(outputs)))
        return float(
            -(self.targets * scipy.special.log_softmax(outputs, axis=1)).sum() / len(outputs)
        )

    def _moved(self, duals: np.ndarray) -> np.ndarray:
        return self.outputs + self._multiply(duals).reshape(self.outputs.shape)

    def _integrated(self, times: np.ndarray) -> list[np.ndarray]:
        if self.learning_rate is not None:
            wanted = {int(time) for time in times}
            found = {
                step: duals
                for step, duals, _ in self._descent(max(wanted, default=0))
                if step in wanted
            }
            return [found[int(time)] for time in times]
        run = self._flow(float(times[-1]), times)
        return [self._scaled(state) for state in run.y.T]

    def _descent(self, steps: int) -> Any:
        """Yields (step, duals, outputs) of descent, the beginning as step 0."""
        rate = self.learning_rate or 0.0
        duals = velocity = np.zeros_like(self._columns(self.outputs))
        for step in range(steps + 1):
            outputs = self._moved(duals)
            yield step, duals, outputs
            slope = self._columns(self._gradient(outputs)) / len(self.targets)
            velocity = self.momentum * velocity + slope
            duals = duals - rate * velocity

    def _flow(self, end: float, times: Any = None, loss: float | None = None) -> Any:
        """Integrates gradient flow in units of n / l_0, in which its outputs move by about 1.

        Args:
            end: the last time.
            times: when the state is kept.
            loss: where to stop; None: nowhere.
        """
        from scipy.integrate import solve_ivp

        unit = len(self.targets) / self.largest
        shape = self._columns(self.outputs).shape

        def slope(_: float, state: np.ndarray) -> np.ndarray:
            moved = self._moved(self._scaled(state))
            return -self._gradient(moved).reshape(shape).reshape(-1)

        def reached(_: float, state: np.ndarray) -> float:
            return 1.0 if loss is None else self._loss(self._moved(self._scaled(state))) - loss

        reached.terminal = True  # type: ignore[attr-defined]
        return solve_ivp(
            slope,
            (0, end / unit),
            np.zeros(np.prod(shape)),
            "DOP853",
            None if times is None else np.minimum(times, end) / unit,
            events=reached,
            rtol=EXACT,
            atol=EXACT,
        )

    def _scaled(self, state: np.ndarray) -> np.ndarray:
        return state.reshape(self._columns(self.outputs).shape) / self.largest

    # --- times --------------------------------------------------------------------------------

    def _steps_to(self, loss: float, most: int) -> float:
        if self.loss == "cross_entropy":
            found = (step for step, _, f in self._descent(most) if self._loss(f) <= loss)
            return float(next(found, np.inf))
        modes, number, rate = self._modes, len(self.targets), self.learning_rate or 0.0
        left, velocity = modes.errors, np.zeros_like(modes.errors)
        for step in range(1, most + 1):
            velocity = self.momentum * velocity + modes.values * left / number
            left = left - rate * velocity
            if np.square(left).sum() <= 2 * number * loss:
                return float(step)
        return float("inf")

    def _flow_to(self, loss: float, most: float) -> float:
        from scipy.optimize import brentq

        unit = len(self.targets) / self.largest
        if self.loss == "cross_entropy":
            events = self._flow(most, [most], loss).t_events[0]
            return float(events[0] * unit) if len(events) else float("inf")

        def too_much(time: float) -> float:
            return self._modes.squares(self._response(time)) / (2 * len(self.targets)) - loss

        end = min(unit, most)
        while too_much(end) > 0 and end < most:
            end = min(2 * end, most)
        return float(brentq(too_much, 0, end)) if too_much(end) <= 0 else float("inf")

    # --- shapes -------------------------------------------------------------------------------

    def _columns(self, outputs: np.ndarray) -> np.ndarray:
        """Returns outputs as the columns that the kernel multiplies."""
        return outputs.reshape(self.kernel.shape[0], -1)

    def _multiply(self, duals: np.ndarray) -> np.ndarray:
        if isinstance(self.kernel, NTKOperator):
            return np.asarray(self.kernel.matmat(duals), float)
        return self.kernel @ duals

    def _test(self, rows: Any, duals: list[np.ndarray], before: Any) -> np.ndarray:
        if isinstance(self.kernel, NTKOperator):
            block = np.concatenate(duals, 1)
            moved = np.asarray(self.kernel.cross_matmat(rows, block), float)
            parts = np.split(moved, len(duals), 1)
        else:
            matrix = _as_matrix(rows)
            if matrix.shape[1] != self.kernel.shape[0]:
                raise ValueError(
                    f"rows of shape {np.shape(rows)}; allowed: [m, n] or [m, n, k, k] like the "
                    f"kernel, with n = {len(self.targets)}"
                )
            parts = [matrix @ each for each in duals]
        outputs = self.outputs.shape[1]
        return np.asarray(before, float) + np.stack([each.reshape(-1, outputs) for each in parts])

    def _checked(self, times: Any) -> np.ndarray:
        asked = np.asarray(times, float).reshape(-1)
        whole = self.learning_rate is None or bool((asked == np.floor(asked)).all())
        if not len(asked) or not (np.diff(asked, prepend=0) >= 0).all() or not whole:
            raise ValueError(
                f"times={times}; allowed: not negative, ascending, and whole numbers of steps if "
                "there is a learning rate"
            )
        return asked


def linearised_training(
    kernel: Kernel,
    targets: Any,
    outputs: Any = 0.0,
    *,
    loss: str = "square",
    learning_rate: float | None = None,
    momentum: float = 0.0,
    steps: int = STEPS,
) -> LinearisedTraining:
    """Returns how a linearised network trains (`ntk.linearised` has the equations).

    Args:
        kernel: of the training examples: [n, n], the same for every output; [n, n, k, k], of
            outputs="full"; or an operator, of which products are taken.
        targets: [n, k] numbers, or probabilities for "cross_entropy".
        outputs: [n, k], of the network at the beginning.
        loss: "square" or "cross_entropy"; a mean over examples and a sum over outputs.
        learning_rate: of gradient descent; None: gradient flow, whose time is learning rate times
            steps.
        momentum: of gradient descent, from 0 to below 1.
        steps: of Lanczos' recursion under square loss if the kernel is an operator.

    Raises:
        ValueError: if an argument is not allowed.

    Source: Lee, Xiao et al., "Wide neural networks of any depth evolve as linear models under
    gradient descent", 2019.

    Examples:
        >>> import numpy, saboc_jax as sj
        >>> training = sj.linearised_training(numpy.eye(2), numpy.ones((2, 1)))
        >>> float(training.at([2.0]).losses[0].round(4))
        0.0677
    """
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r}; allowed: {LOSSES}")
    if (learning_rate is not None and not learning_rate > 0) or not 0 <= momentum < 1:
        raise ValueError(
            f"learning_rate={learning_rate}, momentum={momentum}; allowed: above 0 or None, 0 to "
            "below 1"
        )
    if learning_rate is None and momentum:
        raise ValueError(f"momentum={momentum} of gradient flow; allowed: with a learning_rate")
    wanted = np.asarray(targets, float)
    own = kernel if isinstance(kernel, NTKOperator) else _as_matrix(kernel)
    full = own.outputs == "full" if isinstance(own, NTKOperator) else len(kernel.shape) == 4
    if wanted.ndim != 2 or own.shape != ((wanted.size if full else len(wanted)),) * 2:
        raise ValueError(
            f"targets of shape {wanted.shape} with a kernel of shape {kernel.shape}; allowed: "
            "[n, k] with [n, n] or [n, n, k, k]"
        )
    begun = np.broadcast_to(np.asarray(outputs, float), wanted.shape)
    check_whole("steps", steps)
    return LinearisedTraining(own, wanted, begun, loss, learning_rate, momentum, steps)


def learning_rate_limit(largest: float, number: int, momentum: float = 0.0) -> float:
    """Returns the largest learning rate at which gradient descent on square loss converges.

    2 (1 + m) n / l_0 for the loss 1/(2 n) sum |f - y|^2: whoever adds up over examples instead of
    taking the mean leaves n out, whoever takes the mean over k outputs as well has k n for n.

    Args:
        largest: l_0, the largest eigenvalue of the kernel.
        number: n, examples of a batch.
        momentum: m.
    """
    return 2 * (1 + momentum) * number / largest


def _as_matrix(kernel: Any) -> np.ndarray:
    given = np.asarray(kernel, float)
    if given.ndim == 4:
        n, m, k, _ = given.shape
        given = given.transpose(0, 2, 1, 3).reshape(n * k, m * k)
    if given.ndim != 2:
        raise ValueError(f"a kernel of shape {given.shape}; allowed: [n, m] or [n, m, k, k]")
    return given
