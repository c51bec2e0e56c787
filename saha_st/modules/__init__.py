"""The input module and how to load it.

Names are imported when first used, so that finding a model costs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from saha_st.lazy import lazy_names

if TYPE_CHECKING:
    from saha_st.modules.loading import load_embedder
    from saha_st.modules.transformer import HierarchicalPromptTransformer

__all__ = ["HierarchicalPromptTransformer", "load_embedder"]

__getattr__, __dir__ = lazy_names(
    __name__, {"HierarchicalPromptTransformer": "transformer", "load_embedder": "loading"}
)
