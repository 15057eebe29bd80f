"""Scores of many architectures: one loop, here or on workers, kept in a store."""
