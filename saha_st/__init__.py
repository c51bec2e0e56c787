"""Turn a multimodal LLM into an embedding model."""
