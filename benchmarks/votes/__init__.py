"""Benchmark of the vote step of Private Evolution."""
