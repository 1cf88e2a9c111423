"""Filters: rules, near-duplicates, contamination, semantic duplicates, scores and selection."""

if __name__ != "kiloset.filters":
    raise ImportError("this folder is a part of the package kiloset: import kiloset.filters")
