"""Training of one architecture by a recipe."""
