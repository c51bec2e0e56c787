"""The embedded tiny multimodal LLM and the two-minute run that turns it into an embedder."""
