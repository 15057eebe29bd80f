"""2-d convolutions (NHWC by HWIO) and their gradients, in forms that XLA computes fast.

A geometry is the hashable tuple (strides, padding, dilation, feature groups) of arguments of
`lax.conv_general_dilated`. Everything here equals XLA's own convolution to rounding.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from saboc_jax.precision import PRECISION

Geometry = tuple[Any, ...]
CACHE = 1 << 20  # bytes of patches that a core processes at a time
FEW_PLACES = 9  # XLA's convolution of so few outputs is up to a hundred times slower on the CPU
WIDTH = 32  # fewer outputs make a matrix product slow on the CPU


def convolve(geometry: Geometry, x: Array, kernel: Array) -> Array:
    """Computes a 2-d convolution, NHWC by HWIO."""
    block = _pixels_at_once(geometry, x, kernel)
    plain = partial(_convolve, geometry)
    if block == 1:
        return plain(x, kernel)
    output: Array = lax.platform_dependent(
        x, kernel, cpu=partial(_convolve_blocks, geometry, block), default=plain
    )
    return output


def _pixels_at_once(geometry: Geometry, x: Array, kernel: Array) -> int:
    """Returns how many neighbouring pixels of a row `_convolve_blocks` computes as one."""
    (_, stride), (_, (low, high)), dilation, groups = geometry
    _, size, inner, outer = kernel.shape
    if stride != 1 or dilation != (1, 1) or groups != 1 or size == 1 or min(low, high) < 0:
        return 1
    if is_depthwise(geometry, kernel.shape):  # one channel in, one out
        return 1
    width = x.shape[2] + low + high - size + 1
    most = WIDTH * (1 if inner > 4 else 2) // outer
    return max([b for b in range(1, min(most, 8) + 1) if width % b == 0], default=1)


def _convolve_blocks(geometry: Geometry, block: int, x: Array, kernel: Array) -> Array:
    """Computes `block` neighbouring output pixels of a row as the channels of one pixel.

    Copying patches, not arithmetic, limits a narrow convolution. The pixels of a block share
    their patches: fewer numbers are copied, and the matrix product is wide. The widened kernel
    holds zeros: two to three times the arithmetic, but less time.
    """
    (stride, _), padding, dilation, groups = geometry
    places = [jnp.pad(kernel, ((0, 0), (i, block - 1 - i), (0, 0), (0, 0))) for i in range(block)]
    wide = jnp.concatenate(places, -1)
    y = _convolve(((stride, block), padding, dilation, groups), x, wide)
    return y.reshape(*y.shape[:2], -1, kernel.shape[-1])


def _convolve(geometry: Geometry, x: Array, kernel: Array) -> Array:
    """Computes XLA's convolution, or a depthwise one as a sum."""
    if is_depthwise(geometry, kernel.shape):
        return depthwise_convolve(geometry, x, kernel)
    strides, padding, dilation, groups = geometry
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        rhs_dilation=dilation,
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def is_depthwise(geometry: Geometry, kernel_shape: tuple[int, ...]) -> bool:
    """Does every channel have its own kernel and one output?"""
    return kernel_shape[2] == 1 and kernel_shape[3] == geometry[3]


def _taps(geometry: Geometry, kernel_shape: tuple[int, ...], x: Array) -> list[Array]:
    """Returns the inputs at each position of the kernel, [n, h', w', channels], row by row."""
    strides, padding, dilation, _ = geometry
    return shifted(strides, padding, dilation, kernel_shape[:2], x)


def shifted(
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    window: Sequence[int],
    x: Array,
) -> list[Array]:
    """Returns x [n, h, w, c] shifted to each position of a window: [n, h', w', c], row by row."""
    (sy, sx), (dy, dx) = strides, dilation
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height = (x.shape[1] - dy * (window[0] - 1) - 1) // sy + 1
    width = (x.shape[2] - dx * (window[1] - 1) - 1) // sx + 1
    return [
        x[
            :,
            i * dy : i * dy + sy * (height - 1) + 1 : sy,
            j * dx : j * dx + sx * (width - 1) + 1 : sx,
        ]
        for i in range(window[0])
        for j in range(window[1])
    ]


def depthwise_convolve(geometry: Geometry, x: Array, kernel: Array) -> Array:
    """Computes a depthwise convolution as a sum over the kernel's positions.

    On the CPU XLA fuses the sum into one loop, which is up to a hundred times faster than its
    convolution with feature groups.
    """
    patches = _taps(geometry, kernel.shape, x)
    weights = kernel.reshape(len(patches), kernel.shape[-1])
    return sum(
        (patch * weight for patch, weight in zip(patches[1:], weights[1:], strict=True)),
        start=patches[0] * weights[0],
    )


def _depthwise_input_gradient(geometry: Geometry, x: Array, kernel: Array, g: Array) -> Array:
    """Convolves the cotangent, dilated by the stride, with the flipped kernel."""
    strides, padding, dilation, groups = geometry
    back = [(0, 0, 0)]
    for axis in (0, 1):
        stride, reach = strides[axis], dilation[axis] * (kernel.shape[axis] - 1)
        low = padding[axis][0]
        beyond = x.shape[1 + axis] + low - stride * (g.shape[1 + axis] - 1) - 1
        back.append((reach - low, beyond, stride - 1))
    spread = lax.pad(g, jnp.zeros((), g.dtype), [*back, (0, 0, 0)])
    flipped = jnp.flip(kernel, (0, 1))
    return depthwise_convolve(((1, 1), ((0, 0), (0, 0)), dilation, groups), spread, flipped)


def input_gradient(
    geometry: Geometry, x: Array, kernel: Array, g: Array, again: bool = False
) -> Array:
    """Computes the gradient with respect to the input of `convolve`.

    At stride 1 it is a forward convolution with the flipped kernel. At a greater stride on the CPU
    it is one forward convolution for all pixels of a stride (`_strided_input_gradient`). XLA on
    the CPU has a fast routine for these forms, but not for those that its own rule makes.

    Args:
        geometry: the geometry of the convolution.
        x: its input; only the shape is used.
        kernel: [k, k, in, out].
        g: the cotangent of its output.
        again: whether the result will be differentiated again.
    """
    if is_depthwise(geometry, kernel.shape):
        return _depthwise_input_gradient(geometry, x, kernel, g)
    strides, padding, dilation, groups = geometry

    def by_xla(x: Array, kernel: Array, g: Array) -> Array:
        return jax.vjp(lambda x: _convolve(geometry, x, kernel), x)[1](g)[0]

    if strides != (1, 1) and groups == 1 and dilation == (1, 1) and not again:
        output: Array = lax.platform_dependent(
            x, kernel, g, cpu=partial(_strided_input_gradient, geometry), default=by_xla
        )
        return output
    if groups != 1 or strides != (1, 1):
        return by_xla(x, kernel, g)
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    reach = [d * (k - 1) for k, d in zip(kernel.shape[:2], dilation, strict=True)]
    back = tuple((r - low, r - high) for r, (low, high) in zip(reach, padding, strict=True))
    if any(p < 0 for pair in back for p in pair):
        return by_xla(x, kernel, g)
    run = fast_convolve if again else convolve
    return run((strides, back, dilation, 1), g, flipped)


def _strided_input_gradient(geometry: Geometry, x: Array, kernel: Array, g: Array) -> Array:
    """Computes the gradient of pixels x[s * i + a], all a of stride s, as channels of pixel i.

    These channels are then moved to their pixels. Output o of the convolution reads x[s * i + a]
    through the kernel's position s * (i - o) + a + padding.
    """
    strides, padding, _, _ = geometry
    (inner, outer), (sy, sx) = kernel.shape[2:], strides
    reach, ends, places = [], [], []
    for axis, (size, stride, (low, _)) in enumerate(
        zip(kernel.shape[:2], strides, padding, strict=True)
    ):
        first, last = -((stride - 1 + low) // stride), (size - 1 - low) // stride
        steps = np.arange(last, first - 1, -1)[:, None]  # i - o for each position of the new kernel
        seen = stride * steps + np.arange(stride) + low
        places.append(np.where((seen >= 0) & (seen < size), seen, size))  # size: a zero
        count = -(-x.shape[1 + axis] // stride)
        reach.append(count)
        ends.append((last, count - g.shape[1 + axis] - last + len(steps) - 1))
    padded = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    rows, columns = places
    picked = padded[rows[:, None, :, None], columns[None, :, None, :]]  # [ty, tx, sy, sx, in, out]
    wide = picked.transpose(0, 1, 5, 2, 3, 4).reshape(*picked.shape[:2], outer, sy * sx * inner)
    y = convolve(((1, 1), tuple(ends), (1, 1), 1), g, wide)
    y = y.reshape(-1, reach[0], reach[1], sy, sx, inner).transpose(0, 1, 3, 2, 4, 5)
    y = y.reshape(-1, reach[0] * sy, reach[1] * sx, inner)
    return y[:, : x.shape[1], : x.shape[2]]


def held(strides: Sequence[int], taps: Any) -> Any:
    """Returns what was picked from images at these strides, ready for a matrix product.

    XLA's GPU compiler of jaxlib 0.10.2 ends the process where it meets a strided slice, a reshape
    and a product in a row (openxla/xla#47381). Off the CPU a barrier keeps them apart.
    """
    if max(strides) == 1:
        return taps
    return lax.platform_dependent(taps, cpu=lambda x: x, default=lax.optimization_barrier)


def columns(geometry: Geometry, x: Array, kernel_shape: tuple[int, ...]) -> Array:
    """Returns the patches [n, h', w', k * k * in] of a convolution of few outputs."""
    return jnp.concatenate(_taps(geometry, kernel_shape, x), -1)


def columns_product(patches: Array, kernel: Array, precision: Any = PRECISION) -> Array:
    """Computes a convolution as one product of its patches."""
    return jnp.matmul(patches, kernel.reshape(-1, kernel.shape[-1]), precision=precision)


def unfold(geometry: Geometry, kernel_shape: tuple[int, ...], x: Array) -> Array:
    """Returns patches of x, [n, positions, k * k * channels], in the order of the kernel's axes."""
    patches = held(geometry[0], columns(geometry, x, kernel_shape))
    return patches.reshape(x.shape[0], -1, patches.shape[-1])


def kernel_gradients(
    geometry: Geometry, kernel_shape: tuple[int, ...], x: Array, g: Array
) -> Float[Array, "n k k in out"]:
    """Returns per-example gradients with respect to the kernel, one example at a time."""
    rows = kernel_gradient_rows(geometry, kernel_shape, x, g)
    if geometry[3] != 1:
        return rows.reshape(x.shape[0], *kernel_shape)
    return rows.swapaxes(1, 2).reshape(x.shape[0], *kernel_shape)


def kernel_gradient_rows(
    geometry: Geometry, kernel_shape: tuple[int, ...], x: Array, g: Array
) -> Float[Array, "n out positions"]:
    """Returns the gradients of `kernel_gradients` without transposing: output channels first.

    With feature groups the order is that of the kernel, [n, 1, k * k * in * out].

    Each example takes one matrix product of its cotangent with its patches (the narrow matrix
    first: up to 1.8 times faster). XLA's own batch-grouped convolution for this is ten times
    slower on the CPU.
    """
    if geometry[3] == 1:
        return _dense_gradient_rows(geometry, kernel_shape, x, g)
    if is_depthwise(geometry, kernel_shape):
        taps = [(patch * g).sum((1, 2)) for patch in _taps(geometry, kernel_shape, x)]
        return jnp.stack(taps, 1).reshape(x.shape[0], 1, -1)
    each = jax.vmap(partial(_one_kernel_gradient, geometry, kernel_shape))(x, g)
    return each.reshape(x.shape[0], 1, -1)


def _dense_gradient_rows(
    geometry: Geometry, kernel_shape: tuple[int, ...], x: Array, g: Array
) -> Float[Array, "n out positions"]:
    """Computes `kernel_gradient_rows` without feature groups, by matrix products."""
    strides, padding, _, _ = geometry
    inner = kernel_shape[2]
    if kernel_shape[:2] == (1, 1) and padding == ((0, 0), (0, 0)):
        picked = held(strides, x[:, :: strides[0], :: strides[1]])
        return _rows_of_patches(picked.reshape(x.shape[0], -1, inner), g)
    rows: Array = lax.platform_dependent(
        x,
        g,
        cpu=partial(_rows_by_example, geometry, kernel_shape),
        default=lambda x, g: _rows_of_patches(unfold(geometry, kernel_shape, x), g),
    )
    return rows


def _rows_of_patches(patches: Array, g: Array) -> Float[Array, "n out positions"]:
    """Computes the gradients of all examples by one batched product of cotangents and patches."""
    flat = g.reshape(*patches.shape[:2], g.shape[-1])
    return jnp.einsum("npo,npi->noi", flat, patches, precision=PRECISION)


def _rows_by_example(
    geometry: Geometry, kernel_shape: tuple[int, ...], x: Array, g: Array
) -> Float[Array, "n out positions"]:
    """Computes them one example after another, whose patches stay in a core's cache."""
    strides, padding, dilation, _ = geometry
    height, size, inner, outer = kernel_shape
    # Join two neighbouring pixels of a row as in `_convolve_blocks`; it pays off for few outputs.
    block = 2 if outer <= 8 and strides[1] == dilation[1] == 1 and g.shape[2] % 2 == 0 else 1
    wide = (height, size + block - 1, inner, outer)
    seen_by = ((strides[0], strides[1] * block), padding, dilation, 1)

    def one(pair: tuple[Array, Array]) -> Array:
        x, g = pair
        patches = unfold(seen_by, wide, x[None])[0]
        return jnp.matmul(g.reshape(-1, block * outer).T, patches, precision=PRECISION)

    rows: Array = lax.map(one, (x, g))
    rows = rows.reshape(-1, block, outer, *wide[:3])
    windows = [rows[:, i, :, :, i : i + size] for i in range(block)]
    return sum(windows[1:], start=windows[0]).reshape(x.shape[0], outer, -1)


def _one_kernel_gradient(
    geometry: Geometry, kernel_shape: tuple[int, ...], x: Array, g: Array
) -> Array:
    kernel = jnp.zeros(kernel_shape, x.dtype)
    return jax.vjp(lambda k: convolve(geometry, x[None], k), kernel)[1](g[None])[0]


def summed_kernel_gradient(
    geometry: Geometry, kernel_shape: tuple[int, ...], x: Array, g: Array
) -> Float[Array, "k k in out"]:
    """Computes the gradient with respect to the kernel, some examples at a time.

    Each matrix product takes as many patches as fit in a core's cache: up to four times faster
    on the CPU than one product of all, and twenty times faster than XLA's own rule.
    """
    size = x.dtype.itemsize * math.prod((*g.shape[1:3], *kernel_shape[:3]))
    chunk = max(d for d in range(1, len(x) + 1) if len(x) % d == 0 and d * size <= max(CACHE, size))

    def add(total: Array, pair: tuple[Array, ...]) -> tuple[Array, None]:
        part, cotangent = pair
        patches = unfold(geometry, kernel_shape, part)
        rows = patches.reshape(-1, patches.shape[-1])
        return total + rows.T @ cotangent.reshape(len(rows), -1), None

    zeros = jnp.zeros((math.prod(kernel_shape[:3]), kernel_shape[3]), jnp.result_type(x, g))
    pairs = [a.reshape(len(x) // chunk, chunk, *a.shape[1:]) for a in (x, g)]
    return lax.scan(add, zeros, tuple(pairs))[0].reshape(kernel_shape)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def kernel_gradient(
    geometry: Geometry, kernel_shape: tuple[int, ...], x: Array, g: Array
) -> Float[Array, "k k in out"]:
    """Computes the gradient with respect to the kernel of `convolve`.

    It is linear in x and in g, so its own gradients are convolutions and fast too.
    """
    return summed_kernel_gradient(geometry, kernel_shape, x, g)


def _kernel_gradient_forward(
    geometry: Geometry, kernel_shape: tuple[int, ...], x: Array, g: Array
) -> tuple[Array, Any]:
    return kernel_gradient(geometry, kernel_shape, x, g), (x, g)


def _kernel_gradient_backward(
    geometry: Geometry, kernel_shape: tuple[int, ...], saved: Any, v: Array
) -> tuple[Array, Array]:
    x, g = saved
    return input_gradient(geometry, x, v, g, True), fast_convolve(geometry, x, v)


kernel_gradient.defvjp(_kernel_gradient_forward, _kernel_gradient_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def fast_convolve(geometry: Geometry, x: Array, kernel: Array) -> Array:
    """Computes `convolve` with a reverse rule that is fast on the CPU inside scan and cond.

    Supports reverse mode, also repeatedly, but no forward mode. It does not use blocks of pixels:
    JAX 0.10 confuses residuals in a second derivative under scan with kernels made from kernels.
    """
    return _convolve(geometry, x, kernel)


def _fast_forward(geometry: Geometry, x: Array, kernel: Array) -> tuple[Array, Any]:
    return fast_convolve(geometry, x, kernel), (x, kernel)


def _fast_backward(geometry: Geometry, saved: Any, g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    if geometry[3] != 1 and is_depthwise(geometry, kernel.shape):
        gradients = kernel_gradients(geometry, kernel.shape, x, g)
        return input_gradient(geometry, x, kernel, g, True), gradients.sum(0)
    if geometry[3] != 1:
        return jax.vjp(partial(_convolve, geometry), x, kernel)[1](g)
    back = input_gradient(geometry, x, kernel, g, True)
    return back, kernel_gradient(geometry, kernel.shape, x, g)


fast_convolve.defvjp(_fast_forward, _fast_backward)
