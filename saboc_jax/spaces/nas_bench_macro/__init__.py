"""The NAS-Bench-Macro space: eight layers of three choices, network and costs."""
