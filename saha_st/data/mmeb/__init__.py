"""MMEB, the Massive Multimodal Embedding Benchmark, as pairs to train on and as queries with candidates to score."""

from saha_st.data.mmeb.loading import load_mmeb, load_mmeb_eval
from saha_st.data.mmeb.placeholders import remove_placeholder
from saha_st.data.mmeb.rows import is_mmeb_pairs, mmeb_pairs, mmeb_queries, split_candidates
from saha_st.data.mmeb.subsets import MMEB_SUBSETS, MMEB_TRAIN_SUBSETS, MMEBSubset

__all__ = [
    "MMEB_SUBSETS",
    "MMEB_TRAIN_SUBSETS",
    "MMEBSubset",
    "is_mmeb_pairs",
    "load_mmeb",
    "load_mmeb_eval",
    "mmeb_pairs",
    "mmeb_queries",
    "remove_placeholder",
    "split_candidates",
]
