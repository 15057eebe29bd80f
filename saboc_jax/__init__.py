"""Training-free scores of neural architectures in JAX."""
