"""What MkDocs calls before it renders a page: the table of scorers, and equations as MathML.

Both are made at build time: the table from the registry and the kept results, so that it cannot be
out of date, and the equations so that a page needs no script to show them. CONTRIBUTING.md, which
has to lie at the root of the repository, is a page of the site as well.
"""

import importlib
import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
# The study whose tau the table shows; results of other networks or cells are left out.
STUDY = {
    "space": "nas_bench_201",
    "dataset": "cifar100",
    "channels": 4,
    "cells": 1,
    "num_archs": 1024,
    "batch_size": 64,
    "batch_norm": "frozen",
    "target": "test",
}
# As their authors combine several metrics: AZ-NAS adds logarithms of ranks, all others ranks.
COMBINED = {"az_nas": "log_rank"}
SAME = {"trainability": "ntk_score.S_t"}  # one metric under two names

TABLE = "<!-- table of scorers -->"
PAGES = "<!-- pages of scorers -->"
CONTRIBUTING = "<!-- CONTRIBUTING.md -->"
DISPLAY = re.compile(r"^\$\$\n(.*?)\n\$\$$", re.M | re.S)
INLINE = re.compile(r"(?<![\\$`\w])\$([^$\n`]+)\$(?![\w$])")
CODE = re.compile(r"(^```.*?^```|`[^`\n]*`)", re.M | re.S)
ZERO_COST = "proxy by Abdelfattah et al. 2021"
# Of every scorer at its defaults: (paper, formula). L: mean cross-entropy; H: the NTK, of
# eigenvalues lambda, the largest first; F: the features before global pooling; w: weights.
PAPERS = {
    "consensus": (
        "ours, see [how it was chosen](consensus_protocol.md)",
        "S_g, jacob_cov; of the network that will be trained: parameters, layers in a row, paths "
        "without pooling, $\\sum \\log_2$ of widths; ranks added by agreement",
    ),
    "ntk_score": ("SABoC-NAS, Eq. 5 to 10", "see [concepts](concepts.md)"),
    "trainability": ("SABoC-NAS, Eq. 5", "see [concepts](concepts.md)"),
    "zen": (
        "Lin et al. 2021, Zen-NAS",
        r"$\log \text{mean} \lvert F(x) - F(x + 0.01 e) \rvert + \sum_{\text{BN}} \log \sigma$",
    ),
    "naswot": (
        "Mellor et al. 2021, NAS without Training",
        r"$\log \lvert \det K \rvert$, with $K_{ij}$ the ReLUs that treat images i and j alike",
    ),
    "swap": ("Peng et al. 2024, SWAP-NAS", "distinct patterns of ReLUs over the images"),
    "az_nas": (
        "Lee and Ham 2024, AZ-NAS",
        "entropy of features; its least growth; $2 - s - 1 / s$ of gradients; MACs",
    ),
    "te_nas": ("Chen et al. 2021, TE-NAS", r"$\lambda_1 / \lambda_n$; linear regions"),
    "teg_nas": (
        "Chen et al. 2021, TEG-NAS",
        r"$\lambda_1 / \lambda_n$; linear regions; error of kernel regression",
    ),
    "ete_nas": (
        "Rumiantsev and Coates 2023, ETE-NAS",
        r"$\lVert \text{corr}(F(x_i), F(x_j)) \rVert_F$",
    ),
    "knas": ("Xu et al. 2021, KNAS", r"$\lVert H \rVert_F$"),
    "lga": ("Mok et al. 2022, Demystifying the NTK", r"correlation of $H_{ij}$ with same class"),
    "fisher": (
        f"Theis et al. 2018; {ZERO_COST}",
        r"$\frac{1}{2} \sum_c m_c \, \text{mean} (\sum a_c \, \partial L / \partial a_c)^2$, "
        "with $m_c$ weights that feed channel c",
    ),
    "snip": (
        f"Lee et al. 2019; {ZERO_COST}",
        r"$\sum_w \lvert w \, \partial L / \partial w \rvert$",
    ),
    "synflow": (
        f"Tanaka et al. 2020; {ZERO_COST}",
        r"$\log \sum_w \lvert w \, \partial R / \partial w \rvert$, R for an image of ones",
    ),
    "grasp": (
        f"Wang et al. 2020; {ZERO_COST}",
        r"$- \sum_w w \, (\nabla^2 L \, \nabla L)_w$",
    ),
    "grad_norm": (
        "Abdelfattah et al. 2021, Zero-Cost Proxies",
        r"$\sum_{\text{layers}} \lVert \partial L / \partial W \rVert_2$",
    ),
    "zico": (
        "Li et al. 2023, ZiCo",
        r"$\sum_{\text{layers}} \log \sum_w \text{mean} \lvert g_w \rvert / \text{sd} \, g_w$, "
        "over batches",
    ),
    "jacob_cov": (
        f"Mellor et al. 2020; {ZERO_COST}",
        r"$- \sum_v [\log (v + k) + 1 / (v + k)]$, with v the eigenvalues of correlations of "
        "image gradients",
    ),
    "logme": (
        "You et al. 2021, LogME",
        r"$\frac{1}{n} \max_{\alpha, \beta} \log N(y; 0, I / \beta + F F' / \alpha)$, mean over "
        "classes",
    ),
    "params": ("baseline", "number of parameters"),
    "macs": ("baseline", "multiply-accumulates"),
    "depth": ("baseline", "layers on the longest path"),
    "paths": (
        "baseline",
        "of the network that will be trained: layers on the longest and on the mean path and in a "
        "row; paths without pooling; parameters on a path; $\\sum \\log_2$ of layers' widths",
    ),
    "activations": (
        "Radosavovic et al. 2020, RegNet",
        "outputs of the layers on a path of the network that will be trained",
    ),
    "random": ("baseline", "chance"),
    "latency": ("measured on the device", "median milliseconds of warm runs"),
}


def studies(results: Path) -> list[dict[str, Any]]:
    """The kept correlations of `STUDY`, those with more repeats first."""
    files = sorted(results.glob("correlation_cifar100*/correlations.json"))
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    same = [one for one in found if STUDY.items() <= one["settings"].items()]
    return sorted(same, key=lambda one: -one["settings"]["repeats"])


def taus(results: Path = RESULTS) -> dict[str, str]:
    """Of every metric and combination in `studies`: tau, positive where it orders well."""
    found: dict[str, str] = {}
    for study in studies(results):
        draws = study["settings"]["repeats"]
        for row in study["rows"]:
            sign = 1 if row["better"] == "higher" else -1
            low, tau, high = sorted(sign * row[name] for name in ("low", "tau", "high"))
            text = f"{tau:.2f} [{low:.2f}, {high:.2f}]"
            found.setdefault(row["score"], text + " one draw" * (draws == 1))
    return found


def tau_of(name: str, metrics: tuple[str, ...], known: dict[str, str]) -> str:
    """The cell of a scorer: its only metric's, or that of its metrics combined."""
    metric = name if metrics == (name,) else f"{name}.{metrics[0]}"
    whole = metric if len(metrics) == 1 else f"{name} {COMBINED.get(name, 'borda')}"
    return known.get(SAME.get(name, whole), "not measured")


def scorer_rows() -> list[list[str]]:
    """A row for every registered scorer, of what it declares about itself."""
    from saboc_jax.scorers import SCORERS, make_scorer
    from saboc_jax.spaces import make_space

    space = make_space("nas_bench_201", channels=2, num_cells=1)
    known = taus()
    rows = []
    for name, reference in SCORERS.items():
        module, function = reference.split(":")
        alone = sum(other.startswith(f"{module}:") for other in SCORERS.values()) == 1
        about = importlib.import_module(module)
        what = ((about if alone else getattr(about, function)).__doc__ or "").split("\n")[0]
        paper, formula = PAPERS[name]
        scorer = make_scorer(name, space)
        arrows = [
            f"{metric}\N{NO-BREAK SPACE}{'↑' if up else '↓'}"
            for metric, up in zip(scorer.metrics, scorer.higher_is_better, strict=True)
        ]
        rows.append(
            [
                f"`{name}`",
                what.rstrip(".").partition(" (")[0] if alone else what.rstrip("."),
                formula,
                paper,
                ", ".join(arrows),
                ", ".join(f"`{field}`" for field in sorted(scorer.needs)) or "none",
                str(scorer.passes),
                tau_of(name, scorer.metrics, known),
            ]
        )
    return rows


def scorer_table() -> str:
    """The rows as Markdown."""
    head = ["scorer", "what", "formula", "paper", "metrics", "needs", "passes", "tau here"]
    lines = [head, ["---"] * len(head), *scorer_rows()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def scorer_pages() -> str:
    """The documentation of every module that holds a scorer."""
    from saboc_jax.scorers import SCORERS

    modules = dict.fromkeys(reference.split(":")[0] for reference in SCORERS.values())
    functions: dict[str, list[str]] = {module: [] for module in modules}
    for reference in SCORERS.values():
        module, function = reference.split(":")
        functions[module].append(function)
    return "\n\n".join(
        f"::: {module}\n    options:\n      members: [{', '.join(functions[module])}]"
        for module in modules
    )


def with_equations(markdown: str) -> str:
    """Turns $...$ and $$...$$ outside of code into MathML."""
    from latex2mathml.converter import convert

    def outside_code(text: str) -> str:
        text = DISPLAY.sub(lambda m: f"<div>{convert(m[1], display='block')}</div>", text)
        return INLINE.sub(lambda m: f"<span>{convert(m[1])}</span>", text)  # else a block

    return "".join(
        part if number % 2 else outside_code(part)
        for number, part in enumerate(CODE.split(markdown))
    )


def contributing() -> str:
    """CONTRIBUTING.md, with links as from within `docs`."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return text.replace("](docs/", "](")


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Called by MkDocs with the text of every page."""
    if CONTRIBUTING in markdown:
        markdown = markdown.replace(CONTRIBUTING, contributing())
    if TABLE in markdown:
        markdown = markdown.replace(TABLE, scorer_table()).replace(PAGES, scorer_pages())
    return with_equations(markdown)
