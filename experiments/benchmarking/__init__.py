"""Code shared by the benchmark binaries."""
