"""Instruction data: files in every layout, curated.jsonl, splits, personal data."""
