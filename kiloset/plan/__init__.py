"""The estimate of a run's requests, tokens, time and cost: what is known of earlier runs, and what follows from it."""
