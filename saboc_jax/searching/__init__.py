"""Runs of search methods: limits, results, how a search went."""
