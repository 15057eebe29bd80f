"""The empirical neural tangent kernel: one signature, several engines.

The kernel of images x_i (rows) and x_j (columns) is H_ij = <df(x_i)/dw, df(x_j)/dw> over the
chosen parameters w; f is the sum of the network's outputs unless `outputs` says otherwise.
`NTKOptions` chooses how it is computed.
"""

from collections.abc import Callable, Sequence

from jaxtyping import Array, Float

from saboc_jax.ntk.batches import symmetric
from saboc_jax.ntk.jacobian import jacobian_kernels
from saboc_jax.ntk.network import Network, Predicate, parameter_predicate, split_parameters
from saboc_jax.ntk.one_backward import check_supported, one_backward_kernels, unsupported_reason
from saboc_jax.ntk.options import DEFAULTS, NTKOptions, check_options
from saboc_jax.ntk.reference import reference_kernels


def empirical_ntk(
    network: Network,
    x1: Float[Array, "n ..."],
    x2: Float[Array, "m ..."] | None = None,
    options: NTKOptions = DEFAULTS,
) -> Float[Array, "n m ..."]:
    """Computes the empirical NTK of x1 (rows) with x2 (columns), or of x1 with itself.

    Args:
        network: the network at fixed weights.
        x1: images of the rows.
        x2: images of the columns, which give frozen batch norm statistics. None: x1.
        options: engine, parameters, outputs, batch norm, memory.

    Returns:
        [n, m]; [n, m, k, k] for `outputs="full"`.

    Raises:
        ValueError: if an option does not exist or the engine does not apply.
    """
    if x2 is None:
        return empirical_ntks(network, x1, (), options)[0]
    return empirical_ntks(network, x2, (x1,), options)[1]


def empirical_ntks(
    network: Network,
    columns: Float[Array, "m ..."],
    rows: Sequence[Float[Array, "n ..."]] = (),
    options: NTKOptions = DEFAULTS,
) -> list[Float[Array, "n m ..."]]:
    """Computes the NTKs of the columns with themselves and of each batch of rows with the columns.

    One call shares the work on the columns. Arguments and errors as in `empirical_ntk`.

    Returns:
        [[m, m], [n_1, m], ...]: first the columns' own kernel.
    """
    check_options(options)
    predicate = parameter_predicate(network, options.params)
    split_parameters(network.variables["params"], predicate)  # raises if no parameter is chosen
    engine = choose_engine(network, columns, predicate, options)
    return symmetric(_ENGINES[engine](network, columns, rows, predicate, options))


def choose_engine(
    network: Network, images: Array, predicate: Predicate, options: NTKOptions
) -> str:
    """Returns the engine: the named one; for "auto" `one_backward` if it applies, else `jacobian`.

    Raises:
        ValueError: if `one_backward` is asked for and does not apply.
    """
    if options.engine == "one_backward":
        check_supported(network, images, predicate)
    if options.engine != "auto":
        return options.engine
    fits = options.may_take_one_backward and not unsupported_reason(network, images, predicate)
    return "one_backward" if fits else "jacobian"


_ENGINES: dict[str, Callable[..., list[Array]]] = {
    "one_backward": one_backward_kernels,
    "jacobian": jacobian_kernels,
    "neural_tangents": reference_kernels,
}
