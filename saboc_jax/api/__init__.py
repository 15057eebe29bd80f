"""The functions at the top of the package."""
