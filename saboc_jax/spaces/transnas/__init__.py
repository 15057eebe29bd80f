"""The spaces of TransNAS-Bench-101: cells and backbones, networks and costs."""
