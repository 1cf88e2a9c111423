"""Rewriting responses towards the base model: the fidelity gate, the fit and the style of what passes it."""
