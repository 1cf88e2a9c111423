"""Judges a data set from its run folder alone: figures of the whole (`report`), the life of one row (`explain`)."""
