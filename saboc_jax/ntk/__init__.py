"""Empirical neural tangent kernels and what is read from them."""
