"""Generation: strategies, prompts, and the loop that requests candidates until every category has enough."""

if __name__ != "kiloset.generator":
    raise ImportError("this folder is part of the package kiloset: import kiloset.generator")
