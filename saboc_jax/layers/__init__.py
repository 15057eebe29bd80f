"""Machinery of networks: operations, rules applied from outside, gating, weights."""
