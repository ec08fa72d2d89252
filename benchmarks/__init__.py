"""Benchmarks: each measures ratios in one run, prints a table and ends in one JSON line."""
