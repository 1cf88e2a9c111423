"""Tunes the base model on a run's curated rows with LoRA."""
