"""DARTS: cells of seven nodes, and all genotypes."""
