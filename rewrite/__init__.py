"""Rewriting responses towards the base model: the fidelity gate, the fit and the style of what passes it."""

if __name__ != "kiloset.rewrite":
    raise ImportError("this folder is a part of the package kiloset: import kiloset.rewrite")
