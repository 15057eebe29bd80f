"""What MkDocs asks before a page is rendered: the table of scorers, and equations as MathML.

Both are made at build time: the table from the registry, so that it cannot be out of date, and
the equations so that a page needs no script to show them.
"""

import importlib
import re
from typing import Any

TABLE = "<!-- table of scorers -->"
PAGES = "<!-- pages of scorers -->"
DISPLAY = re.compile(r"^\$\$\n(.*?)\n\$\$$", re.M | re.S)
INLINE = re.compile(r"(?<![\\$`\w])\$([^$\n`]+)\$(?![\w$])")
CODE = re.compile(r"(^```.*?^```|`[^`\n]*`)", re.M | re.S)
ZERO_COST = "as a proxy: Abdelfattah et al. 2021, Zero-Cost Proxies"
PAPERS = {
    "ntk_score": "SABoC-NAS, Eq. 5 to 10",
    "trainability": "SABoC-NAS, Eq. 5",
    "zen": "Lin et al. 2021, Zen-NAS",
    "naswot": "Mellor et al. 2021, NAS without Training",
    "swap": "Peng et al. 2024, SWAP-NAS",
    "az_nas": "Lee and Ham 2024, AZ-NAS",
    "te_nas": "Chen et al. 2021, TE-NAS",
    "teg_nas": "Chen et al. 2021, TEG-NAS",
    "ete_nas": "ETE-NAS, 2023",
    "knas": "KNAS, 2021",
    "lga": "Mok et al. 2022, Demystifying the NTK",
    "fisher": f"Theis et al. 2018; {ZERO_COST}",
    "snip": f"Lee et al. 2019; {ZERO_COST}",
    "synflow": f"Tanaka et al. 2020; {ZERO_COST}",
    "grasp": f"Wang et al. 2020; {ZERO_COST}",
    "grad_norm": "Abdelfattah et al. 2021, Zero-Cost Proxies",
    "zico": "Li et al. 2023, ZiCo",
    "jacob_cov": f"Mellor et al. 2020; {ZERO_COST}",
    "params": "baseline",
    "macs": "baseline",
    "depth": "baseline",
    "random": "baseline: chance",
}


def scorer_rows() -> list[list[str]]:
    """A row for every registered scorer, of what it declares about itself."""
    from saboc_jax.scorers import SCORERS, make_scorer
    from saboc_jax.spaces import make_space

    space = make_space("nas_bench_201", channels=2, num_cells=1)
    rows = []
    for name, reference in SCORERS.items():
        module, function = reference.split(":")
        factory = getattr(importlib.import_module(module), function)
        scorer = make_scorer(name, space)
        arrows = [
            f"{metric} {'↑' if up else '↓'}"
            for metric, up in zip(scorer.metrics, scorer.higher_is_better, strict=True)
        ]
        rows.append(
            [
                f"`{name}`",
                (factory.__doc__ or "").split("\n")[0],
                PAPERS[name],
                ", ".join(arrows),
                ", ".join(f"`{field}`" for field in sorted(scorer.needs)) or "none",
                f"{scorer.passes.forward:g} + {scorer.passes.backward:g}",
            ]
        )
    return rows


def scorer_table() -> str:
    """The rows as Markdown."""
    head = ["scorer", "what", "paper", "metrics", "needs", "passes"]
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
        return INLINE.sub(lambda m: convert(m[1]), text)

    return "".join(
        part if number % 2 else outside_code(part)
        for number, part in enumerate(CODE.split(markdown))
    )


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Called by MkDocs with the text of every page."""
    if TABLE in markdown:
        markdown = markdown.replace(TABLE, scorer_table()).replace(PAGES, scorer_pages())
    return with_equations(markdown)
