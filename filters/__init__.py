"""What leaves the flow, and why: rules, near-duplicates, balance."""

if __name__ != "kiloset.filters":
    raise ImportError("this folder is a part of the package kiloset: import kiloset.filters")
