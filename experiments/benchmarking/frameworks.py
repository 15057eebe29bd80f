"""Kernels of timm's models in float64 against torch.autograd, and what they cost (extra `timm`).

Of each model, with the weights of seed 0 and its running statistics: the NTK over all parameters
of the sum of outputs, by one backward pass, and the Gram matrix of PyTorch's n backward passes.

Examples:
  python experiments/benchmarking/frameworks.py --models=resnet18,vit_tiny_patch16_224 --size=64
"""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags

import saboc_jax as sj
from saboc_jax.extras import needed
from saboc_jax.files import write_json
from saboc_jax.precision import enable_x64

MODELS = flags.DEFINE_list("models", ["resnet18"], "Names of timm's models.")
SIZE = flags.DEFINE_integer("size", 64, "Height and width of images.", 1)
EXAMPLES = flags.DEFINE_integer("examples", 4, "Images.", 1)
SECONDS = flags.DEFINE_float("seconds", 600.0, "No further model is begun after this long.")
OUT = flags.DEFINE_string("out", "runs/frameworks", "Folder of result.json.")


def measured(name: str) -> dict[str, Any]:
    """Returns the row of one model, or why there is none."""
    with needed("timm", "A model of timm"):
        import timm
        import torch

    torch.manual_seed(0)
    try:
        module = timm.create_model(name, num_classes=10).double().eval()
        numbers = np.random.default_rng(0).normal(size=(EXAMPLES.value, SIZE.value, SIZE.value, 3))
        return {"model": name} | compared(module, numbers)
    except Exception as error:  # a row says what failed
        return {"model": name, "refused": " ".join(str(error).split())[:200]}


def compared(module: Any, images: np.ndarray) -> dict[str, Any]:
    """Returns the largest relative difference of the kernels, and seconds."""
    network = sj.from_torch(module)
    options = sj.NTKOptions(params="all", batch_norm="running")

    def kernel(variables: Any, x: Any) -> Any:
        return sj.empirical_ntk(network._replace(variables=variables), x, options=options)

    def gradient(variables: Any, x: Any) -> Any:
        run = lambda p: network.apply({**variables, "params": p}, x)[0].sum()  # noqa: E731
        return jax.grad(run)(variables["params"])

    found, compiling, seconds = timed(kernel, network.variables, images)
    _, _, of_gradient = timed(gradient, network.variables, images)
    expected, of_torch = by_autograd(module, images)
    return {
        "params": sum(p.numel() for p in module.parameters()),
        "difference": float(np.abs(found - expected).max() / np.abs(expected).max()),
        "compile_seconds": compiling,
        "seconds": seconds,
        "gradients": seconds / of_gradient,
        "torch_seconds": of_torch,
    }


def timed(function: Any, *args: Any) -> tuple[Any, float, float]:
    """Returns what a compiled function gives, and seconds of compiling and of its second run."""
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*args).compile()
    compiling = time.perf_counter() - start
    jax.block_until_ready(compiled(*args))
    start = time.perf_counter()
    found = jax.block_until_ready(compiled(*args))
    return jax.device_get(found), compiling, time.perf_counter() - start


def by_autograd(module: Any, images: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the Gram matrix of PyTorch's per-example gradients, and its seconds."""
    import torch

    start, rows = time.perf_counter(), []
    for image in torch.tensor(np.moveaxis(images, -1, 1)):
        grads = torch.autograd.grad(module(image[None]).sum(), list(module.parameters()))
        rows.append(torch.cat([g.ravel() for g in grads]))
    joined = torch.stack(rows)
    return (joined @ joined.T).numpy(), time.perf_counter() - start


def run(argv: list[str]) -> None:
    """Measures and writes."""
    start, rows = time.perf_counter(), []
    for name in MODELS.value:
        if time.perf_counter() - start < SECONDS.value:
            with enable_x64():
                rows.append(measured(name))
            Path(OUT.value).mkdir(parents=True, exist_ok=True)
            write_json(Path(OUT.value) / "result.json", {"size": SIZE.value, "rows": rows})


if __name__ == "__main__":
    app.run(run)
