"""What runs a model: vLLM, the scorer, the embedder, and the models that come with the installation."""
