"""Trains a LoRA adapter on a run's curated rows."""

if __name__ != "kiloset.train":
    raise ImportError("this folder is a part of the package kiloset: import kiloset.train")
