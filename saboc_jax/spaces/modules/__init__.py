"""Modules of anybody as a search space."""
