"""The empirical NTK as a linear operator: products without a kernel or a Jacobian in memory.

The kernel of n examples is H = J J', J the Jacobian of the chosen outputs by the chosen
parameters. A product H V is J (J' V), computed a chunk of examples at a time (`ntk.products`).
Where the whole kernel fits in memory and costs less than `DENSE_PRODUCTS` products of one vector,
it is computed once and multiplied. Diagonal, trace and blocks are exact kernels of chunks, each
by one backward pass.

Rows and columns are examples; with outputs="full" they are pairs of example i and output a, in
the order i k + a.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from saboc_jax.layers.program_cost import count_work
from saboc_jax.layers.programs import is_traced
from saboc_jax.ntk.empirical import check_ntk, empirical_ntk
from saboc_jax.ntk.examples import Examples, Index, padded, places_of
from saboc_jax.ntk.frozen import Frozen, freeze
from saboc_jax.ntk.memory import memory_limit
from saboc_jax.ntk.network import Network, Template, output_shape
from saboc_jax.ntk.options import DEFAULTS, NTKOptions
from saboc_jax.ntk.products import GRADIENTS, PASSES, Directions, cheaper_way, steps_of
from saboc_jax.ntk.solves import Solution, solve, top_eigenpairs
from saboc_jax.ntk.views import lineax_view, scipy_view
from saboc_jax.precision import PRECISION

DENSE = "dense"
PRODUCTS = ("auto", DENSE, PASSES, GRADIENTS)
CHUNK = 256  # examples of a chunk, unless asked for or memory is short
DENSE_PRODUCTS = 64  # the kernel pays if it costs less than this many products
SHARE = 4  # a quarter of the memory may hold a kernel, or the directions of a product
TILE = 1024  # rows of a block of the whole kernel
BLOCK = 16  # examples of a kernel of which only the diagonal is read
FEW = 4  # examples that are verified


class NTKOperator:
    """The NTK of a batch as a symmetric linear operator; `ntk_operator` makes it.

    Attributes:
        shape: (n, n), with outputs="full" (n k, n k).
        dtype: of products, as that of the kernel.
        outputs: "sum", "trace" or "full".
        products: "dense", "passes", "gradients", or "auto": of the last two whichever costs less.
        chunk: at most this many examples at once.
        on_product: called after every product with the number of its columns; set it to show
            progress.
    """

    def __init__(
        self,
        frozen: Frozen,
        inputs: Examples,
        chunk: int | None,
        products: str = "auto",
        kernel: Any = None,
    ) -> None:
        network, _, options = frozen
        self.outputs, self.products = options.outputs, products
        self._network, self._options, self._examples = network, options, inputs
        self.chunk = min(inputs.number, chunk or options.chunk or CHUNK)
        self._steps = steps_of(Template(network), Template(frozen.reverse), options)
        self.on_product: Callable[[int], None] = lambda columns: None
        self._kernel: Any = kernel
        self._measure(inputs.part(0, 1))
        if kernel is not None and (kernel.shape, kernel.dtype) != (self.shape, self.dtype):
            raise ValueError(
                f"a kernel of shape {kernel.shape}, {kernel.dtype}; allowed: {self.shape}, "
                f"{self.dtype}"
            )
        if kernel is not None or (products == "auto" and self._dense_pays()):
            self.products = DENSE

    def _measure(self, example: Any) -> None:
        """Notes what products cost: outputs, parameters, multiply-accumulates of an example."""
        apply, variables = self._network.apply, self._network.variables
        outputs = output_shape(self._network, example)
        self.dtype = np.dtype(jnp.promote_types(outputs.dtype, jnp.float32))
        self._width = int(outputs.shape[-1])
        self._parameters = self._steps.parameters(variables, example)
        self._work = max(1, count_work(lambda x: apply(variables, x)[0], example).macs)
        size = self._examples.number * self._per_example
        self.shape = (size, size)

    @property
    def number(self) -> int:
        """The number of examples, n."""
        return self._examples.number

    @property
    def _per_example(self) -> int:
        """Rows of the operator for each example."""
        return self._width if self.outputs == "full" else 1

    @property
    def _kernels(self) -> int:
        """How many kernels it is the mean of."""
        return self._width if self.outputs == "trace" else 1

    def _dense_pays(self) -> bool:
        """Does the kernel fit in memory, and cost less than many products?"""
        size = self.shape[0]
        if SHARE * size**2 * self.dtype.itemsize > memory_limit():
            return False
        product = 6 * self._work * self._examples.number
        return size**2 * self._parameters <= DENSE_PRODUCTS * product

    def __repr__(self) -> str:
        held = "not computed yet" if self._kernel is None else "held"
        held = f"in {self._kernel.filename}" if self._is_mapped else held
        how = {
            DENSE: f"products with the dense kernel ({held})",
            "auto": f"no kernel held, products by passes or gradients, {self.chunk} examples each",
        }.get(self.products, f"no kernel held, products by {self.products}, {self.chunk} examples")
        return (
            f"NTKOperator(shape={self.shape}, dtype={self.dtype}, outputs={self.outputs!r}, "
            f"{self._parameters} parameters of {self._network.name}; {how})"
        )

    # --- products -----------------------------------------------------------------------------

    def matvec(self, v: Any) -> Float[Array, " size"]:
        """Returns H v.

        Args:
            v: [size] or [size, 1].

        Raises:
            ValueError: if the shape is another.
        """
        v = jnp.asarray(v, self.dtype)
        return self.matmat(v.reshape(-1, 1))[:, 0].reshape(v.shape)

    def matmat(self, V: Any) -> Float[Array, "size b"]:
        """Returns H V for the columns of V; in a traced program (`jax.jit`) as a part of it.

        Args:
            V: [size, b].

        Raises:
            ValueError: if the shape is another.
        """
        V = jnp.asarray(V, self.dtype)
        if V.ndim != 2 or len(V) != self.shape[0]:
            raise ValueError(f"a product with shape {V.shape}; allowed: [{self.shape[0]}, b]")
        if is_traced(V):
            return self._held(V) if self.products == DENSE else self._traced(V)
        if self._is_mapped:
            found = self._from_file(np.asarray(V))
        elif self.products == DENSE:
            found = self._held(V)
        else:
            found = self._in_slabs(V, self._examples)
        self.on_product(V.shape[1])
        return found

    @property
    def _is_mapped(self) -> bool:
        """Is the kernel in a file, of which only a part is in memory at a time?"""
        return isinstance(self._kernel, np.memmap)

    def _held(self, V: Array) -> Array:
        return jnp.matmul(self.dense(), V, precision=PRECISION)

    def _from_file(self, V: np.ndarray) -> Array:
        starts = range(0, len(V), TILE)
        return jnp.asarray(np.concatenate([self._kernel[at : at + TILE] @ V for at in starts]))

    def cross_matmat(self, inputs: Any, V: Any) -> Float[Array, "rows b"]:
        """Returns the product of V with the kernel of other inputs (rows) with the operator's.

        Args:
            inputs: a batch, like that of the operator.
            V: [size, b], for the operator's inputs.

        Raises:
            ValueError: if the shape of V is another.
        """
        V = jnp.asarray(V, self.dtype)
        if V.ndim != 2 or len(V) != self.shape[0]:
            raise ValueError(f"a product with shape {V.shape}; allowed: [{self.shape[0]}, b]")
        return self._in_slabs(V, Examples(inputs))

    def __matmul__(self, V: Any) -> Array:
        return self.matvec(V) if np.ndim(V) == 1 else self.matmat(V)

    def _in_slabs(self, V: Array, rows: Examples) -> Array:
        """Multiplies as many columns at once as have room for their directions."""
        room = memory_limit() // SHARE // (self._parameters * self.dtype.itemsize)
        width = max(1, room // self._kernels)
        slabs = [V[:, start : start + width] for start in range(0, max(1, V.shape[1]), width)]
        return jnp.concatenate([self._product(slab, rows) for slab in slabs], 1)

    def _product(self, V: Array, rows: Examples) -> Array:
        way, chunk = self._plan(V.shape[1])
        variables, columns = self._network.variables, V.shape[1]
        weights = V.reshape(self._examples.number, self._per_example, columns)
        total: Directions | None = None
        for part in self._examples.chunks(chunk):
            cotangents = self._cotangents(_filled(weights[part.start : part.stop], chunk))
            pull = self._steps.compiled("pull", way, variables, part.inputs, cotangents)
            own = pull(variables, part.inputs, cotangents)
            total = own if total is None else [a + b for a, b in zip(total, own, strict=True)]
        done = []
        for part in rows.chunks(chunk):
            push = self._steps.compiled("push", way, variables, part.inputs, total)
            pushed = self._results(push(variables, part.inputs, total), columns)
            done.append(pushed[: (part.stop - part.start) * self._per_example])
        return jnp.concatenate(done)

    def _traced(self, V: Array) -> Array:
        """Returns the product as a part of a program that is being traced."""
        variables, columns, chunk = self._network.variables, V.shape[1], self.chunk
        way, number = self._way(columns), self._examples.number
        weights = V.reshape(number, self._per_example, columns)
        whole = padded(self._examples.part(0, number), -(-number // chunk) * chunk)
        inputs = jax.tree.map(lambda leaf: leaf.reshape(-1, chunk, *leaf.shape[1:]), whole)
        given = _filled(weights, -(-number // chunk) * chunk)
        given = given.reshape(-1, chunk, *given.shape[1:])

        def pull(part: tuple[Any, Array]) -> Directions:
            return self._steps.pull(way, variables, part[0], self._cotangents(part[1]))

        first = jax.tree.map(lambda leaf: leaf[0], (inputs, given))
        zeros = [jnp.zeros(s.shape, s.dtype) for s in jax.eval_shape(pull, first)]
        add = lambda a, part: ([x + y for x, y in zip(a, pull(part), strict=True)], None)  # noqa: E731
        total = lax.scan(add, zeros, (inputs, given))[0]
        push = lambda x: self._results(self._steps.push(way, variables, x, total), columns)  # noqa: E731
        return lax.map(push, inputs).reshape(-1, columns)[: self.shape[0]]

    def _way(self, columns: int) -> str:
        if self.products in (PASSES, GRADIENTS):
            return self.products
        outputs = 1 if self.outputs == "sum" else self._width
        return cheaper_way(self._work, self._parameters, outputs, columns * self._kernels)

    def _plan(self, columns: int) -> tuple[str, int]:
        """Returns the way of a product, and how many examples of it fit in memory."""
        way = self._way(columns)
        while True:
            inputs = padded(self._examples.part(0, 1), self.chunk)
            zeros = jnp.zeros((self.chunk, self._per_example, columns), self.dtype)
            given = (way, self._network.variables, inputs, self._cotangents(zeros))
            if self.chunk == 1 or self._steps.bytes_of(*given) <= memory_limit():
                return way, self.chunk
            self.chunk //= 2

    def _cotangents(self, weights: Float[Array, "c w b"]) -> Float[Array, "m c k"]:
        """Returns the columns of a chunk as cotangents of its outputs."""
        columns = jnp.moveaxis(weights, -1, 0)
        if self.outputs != "trace":
            return columns
        each = columns[:, None] * jnp.eye(self._width, dtype=columns.dtype)[:, None]
        return each.reshape(-1, *each.shape[2:])

    def _results(self, pushed: Float[Array, "m c k"], columns: int) -> Float[Array, "rows b"]:
        """Returns the rows of a chunk."""
        if self.outputs == "trace":
            each = pushed.reshape(columns, self._width, -1, self._width)
            pushed = (jnp.einsum("bkck->bc", each) / self._width)[..., None]
        return pushed.reshape(columns, -1).T.astype(self.dtype)

    # --- exact parts of the kernel ------------------------------------------------------------

    def dense(self) -> Float[Array, "size size"]:
        """Returns the whole kernel; it is held only if products take it."""
        if self._kernel is not None:
            return jnp.asarray(self._kernel)
        with jax.ensure_compile_time_eval():
            kernel = self._whole()
        if self.products == DENSE:
            self._kernel = kernel
        return kernel

    def _whole(self) -> Array:
        number = self._examples.number
        if number <= TILE:
            return self.block(slice(None), slice(None))
        kernel = np.empty(self.shape, self.dtype)
        starts = range(0, number, TILE)
        for i in starts:
            for j in (j for j in starts if j <= i):
                rows, columns = slice(i, min(i + TILE, number)), slice(j, min(j + TILE, number))
                tile = np.asarray(self.block(rows, columns))
                row, column = (self._rows_of(each) for each in (rows, columns))
                kernel[row, column], kernel[column, row] = tile, tile.T
        return jnp.asarray(kernel)

    def _rows_of(self, examples: slice) -> slice:
        return slice(examples.start * self._per_example, examples.stop * self._per_example)

    def block(self, i: Index, j: Index) -> Float[Array, "rows columns"]:
        """Returns the kernel of some examples with others, by one backward pass.

        Args:
            i: the examples of the rows: a number, a slice or a list of numbers.
            j: the examples of the columns.

        Returns:
            [rows, columns]; with outputs="full" every example has k of either.

        Raises:
            ValueError: if an index is outside.
        """
        rows, columns = (places_of(each, self._examples.number) for each in (i, j))
        if self._kernel is not None:
            return jnp.asarray(self._kernel[np.ix_(self._flat(rows), self._flat(columns))])
        right = self._examples.pick(columns)
        left = None if np.array_equal(rows, columns) else self._examples.pick(rows)
        return self._matrix(self._kernel_of(right if left is None else left, left, right))

    def _flat(self, places: np.ndarray) -> np.ndarray:
        rows = places[:, None] * self._per_example + np.arange(self._per_example)
        return rows.reshape(-1)

    def _kernel_of(self, rows: Any, left: Any, right: Any) -> Array:
        return empirical_ntk(self._network, rows, None if left is None else right, self._options)

    def _matrix(self, kernel: Array) -> Array:
        if kernel.ndim == 2:
            return kernel
        n, m, k, _ = kernel.shape
        return kernel.transpose(0, 2, 1, 3).reshape(n * k, m * k)

    def diagonal(self) -> Float[Array, " size"]:
        """Returns the diagonal, exact, from kernels of a few examples each."""
        if self._kernel is not None:
            return jnp.asarray(np.diagonal(np.asarray(self._kernel)))
        size = min(BLOCK, self._examples.number)
        done = []
        for part in self._examples.chunks(size):
            kernel = empirical_ntk(self._network, part.inputs, options=self._options)
            own = jnp.diagonal(self._matrix(kernel))
            done.append(own[: (part.stop - part.start) * self._per_example])
        return jnp.concatenate(done)

    def trace(self) -> float:
        """Returns the sum of the diagonal, added in float64."""
        return float(np.asarray(self.diagonal(), np.float64).sum())

    # --- spectrum and solutions ---------------------------------------------------------------

    @property
    def is_dense(self) -> bool:
        """Do products take the whole kernel in memory?"""
        return self.products == DENSE and not self._is_mapped

    def columns(self, number: int) -> tuple[np.ndarray, Float[Array, "size m"]]:
        """Returns (places, columns) of that many rows of the operator or a few more.

        They are those of examples at equal distances, exact, by one backward pass for each tile.
        """
        total = self._examples.number
        few = min(total, -(-number // self._per_example))
        chosen = np.unique(np.linspace(0, total - 1, few).astype(int))
        parts = [
            self.block(slice(start, min(start + TILE, total)), chosen)
            for start in range(0, total, TILE)
        ]
        return self._flat(chosen), jnp.concatenate(parts)

    def top_eigenvalues(self, k: int) -> Float[np.ndarray, " k"]:
        """Returns the k largest eigenvalues, descending; see `ntk.solves.top_eigenpairs`."""
        return top_eigenpairs(self, k)[0]

    def top_eigenpairs(self, k: int) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "size k"]]:
        """Returns the k largest eigenvalues, descending, and their unit vectors as columns.

        Raises:
            ValueError: unless 1 <= k <= the number of rows.
        """
        return top_eigenpairs(self, k)

    def solve(
        self, Y: Any, ridge: float = 0.0, *, tolerance: float = 1e-4, max_iterations: int = 1000
    ) -> Solution:
        """Solves (H + ridge) X = Y, for all columns of Y at once.

        By conjugate gradients with a Nystrom preconditioner; of a kernel that is held or small by
        a factorisation. The residuals are computed from a product of their own.

        Args:
            Y: [size] or [size, b].
            ridge: added to the diagonal.
            tolerance: relative residual, of all columns together.
            max_iterations: each is a product with b columns.

        Raises:
            ValueError: if an argument is not allowed.

        Warns:
            NotConverged: if a residual stays above 10 times the tolerance.
        """
        return solve(self, Y, ridge, tolerance, max_iterations)

    # --- views --------------------------------------------------------------------------------

    def as_scipy(self) -> Any:
        """Returns a `scipy.sparse.linalg.LinearOperator` of NumPy arrays."""
        return scipy_view(self)

    def as_lineax(self) -> Any:
        """Returns a `lineax.FunctionLinearOperator`, tagged as positive semidefinite.

        Its products are parts of lineax's programs, so all inputs are in memory.

        Raises:
            MissingExtraError: if lineax is not installed.
        """
        return lineax_view(self)


def _filled(weights: Array, size: int) -> Array:
    """Returns weights with zeros for the repeated examples of the last chunk."""
    return jnp.pad(weights, ((0, size - len(weights)), *[(0, 0)] * (weights.ndim - 1)))


def ntk_operator(
    network: Network,
    inputs: Any,
    options: NTKOptions = DEFAULTS,
    *,
    chunk: int | None = None,
    statistics: Any = None,
    products: str = "auto",
    kernel: Any = None,
) -> NTKOperator:
    """Returns the NTK of a batch as a linear operator; see `NTKOperator` and `ntk.operator`.

    Args:
        network: the network at fixed weights.
        inputs: any tree of arrays with a leading axis of n examples. A leaf may be anything that
            has `shape` and `dtype` and is read by slices, such as `numpy.load(..., mmap_mode="r")`:
            products read it chunk by chunk.
        options: parameters, outputs, batch norm; engine "auto" or "one_backward".
        chunk: at most this many examples in a pass; None: `options.chunk`, or 256. It is halved
            while a compiled pass needs more than the memory limit (`SABOC_MEMORY_GIB`).
        statistics: the batch whose statistics frozen batch norms take; None: all inputs, which
            are then read at once if the network may have any.
        products: "auto": with the dense kernel where it fits a quarter of the memory limit and
            costs less than 64 products of one vector; else by "passes" or "gradients", whichever
            takes fewer multiply-accumulates (`ntk.products`). A name: always so.
        kernel: the dense kernel of these inputs, if it is known, such as that of
            `tiles.empirical_ntk_blocks`; products then take it, from its file if it is mapped.

    Raises:
        ValueError: if an argument is not allowed, or the network's examples interact.

    Examples:
        >>> import jax, saboc_jax as sj
        >>> network = sj.from_function(lambda w, x: jax.numpy.tanh(x @ w), jax.numpy.ones((3, 2)))
        >>> operator = sj.ntk_operator(network, jax.numpy.eye(3))
        >>> operator.matvec(jax.numpy.ones(3)).shape
        (3,)
    """
    if products not in PRODUCTS:
        raise ValueError(f"products={products!r}; allowed: {PRODUCTS}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk={chunk}; allowed: 1 or more, or None")
    examples = Examples(inputs)
    batch = examples.inputs if statistics is None else statistics
    frozen = freeze(network, batch, options)
    operator = NTKOperator(frozen, examples, chunk, products, kernel)
    if options.check:
        _verify(operator, frozen, examples)
    return operator


def _verify(operator: NTKOperator, frozen: Frozen, examples: Examples) -> None:
    """Verifies the kernel of a few examples, once for networks of equal code.

    Raises:
        ValueError: if it is wrong, because examples interact.
    """
    steps = operator._steps
    if not steps.is_checked:
        few = examples.part(0, FEW)
        found = check_ntk(frozen.network, few, frozen.options)
        if not found.passed:
            raise ValueError(
                f"an operator of {frozen.network.name}: {found.reason}; allowed: networks whose "
                "examples do not interact (others: empirical_ntk with engine='jacobian')"
            )
        steps.is_checked = True
