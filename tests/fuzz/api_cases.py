"""Random wrong arguments for the functions of the API, with the answer that they get.

A case is bad if it ends in anything but a value or one sentence of a ValueError (or of a file that
is not there). Cases are drawn from a seed, so a number names one.
"""

import functools
import inspect

import jax
import numpy as np
from flax import linen as nn

import saboc_jax as sj
from saboc_jax import data
from saboc_jax.searching.budgets import Budget

FINE = (ValueError, OSError, ImportError)
LONGEST = 2000


class Net(nn.Module):
    """A small network."""

    @nn.compact
    def __call__(self, images):
        """Returns [n, 10]."""
        return nn.Dense(10)(images.mean((1, 2)))


SPACE = sj.make_space("nas_bench_201", channels=1, num_cells=1, image_shape=(8, 8, 1))
ARCHS = [[3, 3, 3, 3, 3, 3], [2, 2, 2, 2, 2, 2], [1, 1, 1, 1, 1, 3]]
IMAGES = np.random.default_rng(0).standard_normal((6, 8, 8, 1), np.float32)
BATCH = sj.Batch(IMAGES, np.arange(6) % 3, IMAGES[::-1], np.arange(6) % 3)

HOSTILE = {
    "None": lambda: None,
    "NaN": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "minus one": lambda: -1,
    "zero": lambda: 0,
    "half": lambda: 0.5,
    "1e23": lambda: 1e23,
    "2**70": lambda: 2**70,
    "true": lambda: True,
    "empty text": lambda: "",
    "text": lambda: "no such thing [bold]",
    "empty list": list,
    "empty dict": dict,
    "0-d array": lambda: np.array(3),
    "0-d jax array": lambda: jax.numpy.array(0.5),
    "2-d array": lambda: np.ones((2, 2)),
    "empty array": lambda: np.empty(0),
    "NaN array": lambda: np.full(3, np.nan),
    "object array": lambda: np.array([None, "a"], object),
    "generator": lambda: (each for each in ARCHS),
    "empty generator": lambda: iter(()),
    "range": lambda: range(3),
    "a set": lambda: {1, 2},
    "bytes": lambda: b"params",
    "nested list": lambda: [[1], [2, 3]],
    "a class": lambda: Net,
    "a function": lambda: lambda *given, **named: None,
    "an object": object,
    "a raw key": lambda: jax.random.PRNGKey(0),
    "keys": lambda: jax.random.split(jax.random.key(0), 3),
    "a module": Net,
    "modules": lambda: [Net(), Net()],
    "NaN batch": lambda: BATCH._replace(images=IMAGES * np.nan),
    "uint8 batch": lambda: BATCH._replace(images=IMAGES.astype(np.uint8)),
    "one-hot batch": lambda: BATCH._replace(labels=np.eye(3)[BATCH.labels]),
    "list batch": lambda: BATCH._replace(images=IMAGES.tolist(), labels=[0, 1, 2, 0, 1, 2]),
    "short batch": lambda: BATCH._replace(labels=BATCH.labels[:4]),
    "empty batch": lambda: sj.Batch(None, None),
    "NaN budget": lambda: Budget(latency_ms=float("nan")),
    "text budget": lambda: Budget(params="1"),
    "no budget": Budget,
    "a choice": lambda: ARCHS[0],
    "a complex number": lambda: 1j,
    "a long text": lambda: "x" * 300,
}


@functools.cache
def calls():
    """{name: (function, right arguments)}."""
    digits, key = data.load("digits"), jax.random.key(0)
    common = {
        "images": BATCH, "key": key, "scorers": "params", "space": SPACE, "repeats": 1,
        "batch_size": 8, "call": None, "store": None, "progress": False,
    }  # fmt: skip
    search = {"searcher": "random", "budget": None, "max_evaluations": 3, "time_budget": None}
    train = {
        "candidate": Net(), "dataset": digits, "recipe": None, "seed": 0, "space": None,
        "folder": None, "max_examples": 64, "call": None, "progress": False,
    }  # fmt: skip
    made = {"name": "nas_bench_201", "channels": 2, "num_cells": 1, "num_classes": 3}
    return {
        "score": (sj.score, {"candidate": ARCHS[0], **common}),
        "rank": (sj.rank, {"candidates": ARCHS, **common, "ranking": "borda", "budget": None}),
        "search": (sj.search, {**common, **search}),
        "correlate": (
            sj.correlate,
            {"candidates": ARCHS, "accuracies": [1.0, 2.0, 3.0], **common,
             "aggregations": ["borda"], "resamples": 5},
        ),
        "train": (sj.train, train | {"recipe": "tiny"}),
        "make_space": (sj.make_space, {**made, "image_shape": (8, 8, 1), "init": "torch_default"}),
        "make_scorer": (sj.make_scorer, {"name": "synflow", "space": SPACE, "variant": "log"}),
    }  # fmt: skip


def answer(number, seed=0):
    """Returns (the case in words, "fine", "one sentence" or what is wrong with the answer)."""
    rng = np.random.default_rng((seed, number))
    function, right = list(calls().values())[number % len(calls())]
    argument, what = rng.choice(list(right)), rng.choice(list(HOSTILE))
    words = f"{function.__name__}({argument}={what})"
    if function is sj.train and argument not in ("candidate", "dataset"):
        right = right | {"candidate": "no module"}  # what is left of training is left
    try:
        given = right | {argument: HOSTILE[what]()}
        inspect.signature(function).bind(**given)
        function(**given)
    except FINE as error:
        said = str(error)
        return words, judged(said)
    except Exception as error:
        return words, f"{type(error).__name__}: {str(error)[:150]}"
    return words, "fine"


def judged(said):
    """Returns "one sentence", or why the message of an error is none."""
    inside = ("Traceback", "jaxlib", "XlaRuntime", "TracerArrayConversion", "site-packages")
    if not said.strip() or "\n" in said.strip() or len(said) > LONGEST:
        return f"no sentence: {said[:150]!r}"
    return f"from inside: {said[:150]}" if any(word in said for word in inside) else "one sentence"
