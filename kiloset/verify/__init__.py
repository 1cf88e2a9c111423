"""Verification of what a model wrote: checks without a model, questions to the writer model, and the stage that drops rows."""
