"""Trains one architecture by a recipe."""
