"""The NAS-Bench-101 space: graph cells, network and costs."""
