"""The DARTS space: cells, genotypes, networks and costs."""
