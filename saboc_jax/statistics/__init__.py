"""Ranks, correlations, tests."""
