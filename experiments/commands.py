"""The commands of `saboc`: a binary by its name, and what it does in one line."""

COMMANDS = {
    "ablation": (
        "What each choice in the NTK-score's protocol does to its correlation with accuracy."
    ),
    "benchmark": "Measures NTK engines against each other, training steps and PyTorch, in one run.",
    "correlate": "How well training-free scores order architectures by their true accuracy.",
    "darts_correlations": (
        "How well training-free scores order DARTS genotypes, by a surrogate's or by trained "
        "accuracies."
    ),
    "fetch_data": (
        "Says of every data set and table whether it is there, and if not, how to get and name it."
    ),
    "import_nats_bench": (
        "Turns official NATS-Bench files into nas_bench_201.csv, which search and correlate read."
    ),
    "ntk": (
        "The NTK of many images: kernel, leading eigenvalues and regression, to files; it goes on."
    ),
    "parity": "Compares our values with those another implementation computed on the same weights.",
    "precision": (
        "What the floating-point type of a network changes in its scores, against float64."
    ),
    "published_scores": (
        "Our Spearman correlations beside those of NAS-Bench-Suite-Zero's published scores."
    ),
    "rank": (
        "Ranks networks of any framework by their names, the best first; run again, it goes on."
    ),
    "ray_throughput": (
        "Measures scores a second on Ray for several numbers of workers, and what the driver "
        "spends."
    ),
    "report": "Writes report.html of a run anew, or one page that compares several runs.",
    "resnet_compile": "Seconds to evaluate a candidate of the ResNet space, compilation included.",
    "scaling": "Fits how the cost of an NTK grows with one size at a time: exponents, with a plot.",
    "score": (
        "Scores given or drawn architectures into a store; run again, it goes on where it stopped."
    ),
    "score_your_own": "Ranks your own Flax modules: here a few small vision transformers.",
    "scorer_seconds": (
        "Measures seconds per architecture of every scorer by itself, compile and run time apart."
    ),
    "search": "Searches a space without training, and shows what was found.",
    "searcher_overhead": (
        "Evaluations per second of every search method with a free score: the method's own cost."
    ),
    "train": (
        "Trains one architecture by a recipe; run again with its workdir, it goes on where it "
        "stopped."
    ),
    "train_compare": (
        "Trains NAS-Bench-201 cells alike, for a short time, and compares them with the table."
    ),
    "paper.figure1": (
        "Figure 1: tau with test accuracy against tau with training accuracy, for every score."
    ),
    "paper.figure2": "Figure 2: S_t, S_e and S_g of every cell against its test accuracy.",
    "paper.table1": (
        "Table 1: Kendall tau of S_t, S_e, S_g and of their Borda counts with test accuracy."
    ),
    "paper.table2": "Table 2: Kendall tau of S_t with test accuracy by batch size n.",
    "paper.table3": (
        "Table 3: pruning on NAS-Bench-201 by every scorer, beside the paper's numbers."
    ),
    "paper.table4": "Table 4: pruning on DARTS by every method, beside the paper's numbers.",
    "paper.table5": "Table 5: evolution on ResNets by every scorer, beside the paper's rows.",
    "paper.table6": (
        "Table 6: REINFORCE and evolution on NAS-Bench-201 by three scorers, beside the paper's "
        "numbers."
    ),
}
"""Everyday commands come before those of the paper. Each line copies the first docstring line of
`experiments/NAME.py`, so that `saboc --help` need not import or read that file."""

GROUPS = {
    "Use it": (
        *("search", "score", "rank", "score_your_own", "ntk", "train", "report", "correlate"),
        *("fetch_data", "import_nats_bench"),
    ),
    "The paper": (
        *("paper.table1", "paper.table2", "paper.table3", "paper.table4", "paper.table5"),
        *("paper.table6", "paper.figure1", "paper.figure2"),
        *("ablation", "darts_correlations", "published_scores", "train_compare", "parity"),
    ),
    "Measure it": (
        *("benchmark", "scorer_seconds", "searcher_overhead", "resnet_compile", "scaling"),
        *("precision", "ray_throughput"),
    ),
}
"""The commands as `saboc --help` lists them."""
