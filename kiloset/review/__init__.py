"""The review page and what its decisions do to a run."""
