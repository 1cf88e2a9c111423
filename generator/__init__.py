"""Seeds, pool and the loop that asks for what is still missing."""

if __name__ != "kiloset.generator":
    raise ImportError("this folder is a part of the package kiloset: import kiloset.generator")
