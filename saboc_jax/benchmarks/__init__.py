"""True accuracies, and scores computed by other implementations."""
