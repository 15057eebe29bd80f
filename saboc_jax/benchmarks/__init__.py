"""True accuracies, and values of other implementations."""
