"""Seeds, pool and the loop that asks for what is still missing."""
