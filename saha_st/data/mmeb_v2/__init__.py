"""MMEB-V2: the video and visual document tasks beside the image tasks of MMEB, as queries that rank documents."""

from saha_st.data.mmeb_v2.loading import load_mmeb_v2_eval, open_mmeb_v2
from saha_st.data.mmeb_v2.places import MMEBV2Place
from saha_st.data.mmeb_v2.split import RankingSplit
from saha_st.data.mmeb_v2.subsets import PAGE_SUBSETS, VIDEO_SUBSETS, PageSubset, VideoSubset

__all__ = [
    "PAGE_SUBSETS",
    "VIDEO_SUBSETS",
    "MMEBV2Place",
    "PageSubset",
    "RankingSplit",
    "VideoSubset",
    "load_mmeb_v2_eval",
    "open_mmeb_v2",
]
