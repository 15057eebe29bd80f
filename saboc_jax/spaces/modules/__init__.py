"""A search space of the user's own modules."""
