"""Search spaces: architectures as data, networks as Flax modules."""
