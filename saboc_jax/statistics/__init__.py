"""Ranks, correlations and significance tests."""
