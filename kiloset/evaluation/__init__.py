"""Judges a model: constraint following, drift, forgetting, rigidity; the base beside the tuned one, with intervals."""
