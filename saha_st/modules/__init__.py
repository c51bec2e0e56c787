"""The input module and how to load it."""

from __future__ import annotations

from saha_st.modules.loading import load_embedder
from saha_st.modules.transformer import HierarchicalPromptTransformer

__all__ = ["HierarchicalPromptTransformer", "load_embedder"]
