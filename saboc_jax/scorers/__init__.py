"""Training-free scorers, one file per paper."""
