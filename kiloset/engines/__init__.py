"""Engines that run models: vLLM, OpenAI-compatible servers, the scorer, embedders, Ray, and the bundled models."""
