"""Runnable experiments: absl binaries over the library."""
