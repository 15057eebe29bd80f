"""The numbers in the tables of SABoC-NAS, for comparison with ours.

Source: "SABoC-NAS: Scoring Architectures via Borda Count", Tables 1 and 3 to 6. Accuracies are
top-1 test accuracies in percent on CIFAR-10, CIFAR-100 and ImageNet16-120; seconds are those of
one search on a GPU that the paper does not name, and are not comparable with a CPU's.
"""

from typing import NamedTuple


class PublishedSearch(NamedTuple):
    """The paper's numbers for one kind of search.

    Attributes:
        cifar10: accuracy in percent.
        cifar100: accuracy in percent.
        imagenet16_120: accuracy in percent.
        seconds: seconds of the search.
    """

    cifar10: float
    cifar100: float
    imagenet16_120: float
    seconds: float


# Kendall's tau with the test accuracy on CIFAR-100, by the names of our rows.
TABLE_1 = {
    "S_t": 0.433,
    "S_e": 0.514,
    "S_g": 0.513,
    "ntk_score borda S_t&S_e": 0.524,
    "ntk_score borda S_t&S_g": 0.522,
    "ntk_score borda S_e&S_g": 0.518,
    "ntk_score borda": 0.532,
}

# Pruning on NAS-Bench-201, by the names of our scorers.
TABLE_3 = {
    "fisher": PublishedSearch(90.86, 66.67, 37.50, 109),
    "snip": PublishedSearch(91.91, 67.34, 39.18, 92),
    "synflow": PublishedSearch(93.43, 70.42, 42.88, 82),
    "grasp": PublishedSearch(93.11, 70.21, 43.66, 93),
    "grad_norm": PublishedSearch(92.01, 67.27, 39.59, 49),
    "zico": PublishedSearch(93.28, 70.58, 43.60, 50),
    "zen": PublishedSearch(93.46, 70.36, 43.25, 20),
    "swap": PublishedSearch(93.18, 70.14, 42.09, 18),
    "az_nas": PublishedSearch(93.01, 70.40, 44.68, 26),
    "ete_nas": PublishedSearch(92.75, 69.94, 41.38, 38),
    "knas": PublishedSearch(93.03, 70.22, 42.61, 452),
    "lga": PublishedSearch(93.16, 69.95, 44.13, 434),
    "te_nas": PublishedSearch(93.31, 70.38, 44.53, 1964),
    "teg_nas": PublishedSearch(93.20, 70.48, 44.68, 3228),
    "ntk_score": PublishedSearch(93.63, 71.06, 45.10, 921),
}
# NAS without training (`naswot`) is searched with too; the paper has no number for it.
METHODS_3 = (*TABLE_3, "naswot")

# Other search methods on NAS-Bench-201: (searcher, scorer).
TABLE_6 = {
    ("reinforce", "az_nas"): PublishedSearch(93.64, 70.43, 41.65, 77),
    ("reinforce", "teg_nas"): PublishedSearch(93.21, 70.42, 44.88, 3885),
    ("reinforce", "ntk_score"): PublishedSearch(93.56, 70.68, 45.31, 3058),
    ("evolution", "az_nas"): PublishedSearch(93.05, 69.37, 40.69, 279),
    ("evolution", "teg_nas"): PublishedSearch(93.00, 70.10, 44.45, 9376),
    ("evolution", "ntk_score"): PublishedSearch(93.43, 70.42, 44.83, 8600),
}

# Table 5: evolution on ResNets, CIFAR-10 and CIFAR-100 accuracies after training, search hours.
_COLUMNS_5 = ("C10 top-1", "C10 top-5", "C100 top-1", "C100 top-5", "hours")
TABLE_5 = {
    name: dict(zip(_COLUMNS_5, values, strict=True))
    for name, values in {
        "zen": (97.28, 99.93, 81.67, 96.17, 11.6),
        "naswot": (95.14, 99.83, 71.64, 91.46, 16.7),
        "ete_nas": (95.04, 99.85, 73.73, 93.65, 62.3),
        "te_nas": (96.03, 99.90, 76.44, 94.10, 65.0),
        "teg_nas": (96.46, 99.94, 78.51, 95.02, 124.7),
        "ntk_score": (96.97, 99.92, 80.11, 95.97, 137.0),
    }.items()
}

# Table 4: pruning on DARTS, top-1 accuracies on CIFAR-10 and CIFAR-100 after 400 epochs, seconds.
TABLE_4 = {
    "ete_nas": (95.36, 80.08, 1793),
    "knas": (95.84, 79.47, 13992),
    "lga": (96.25, 80.58, 14499),
    "te_nas": (96.50, 80.34, 25169),
    "teg_nas": (96.62, 81.76, 25004),
    "ntk_score": (96.81, 81.82, 25232),
}
