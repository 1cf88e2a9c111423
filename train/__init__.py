"""Tunes the base model on a run's curated rows with LoRA."""

if __name__ != "kiloset.train":
    raise ImportError("this folder is a part of the package kiloset: import kiloset.train")
