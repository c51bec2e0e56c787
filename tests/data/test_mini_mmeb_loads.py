"""The loader of MMEB against the generator of mini-MMEB, which knows nothing of each other but the layout on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset

from saha_st.data import check_pairs, load_mmeb, load_mmeb_eval, split_candidates
from saha_st.data.scenes import SUBSETS, write_mini_mmeb


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mini") / "mmeb"
    return write_mini_mmeb(root, seed=1, train_rows=12, eval_rows=4, candidates=10)


@pytest.mark.parametrize("split", ["original", "diverse_instruction"])
def test_all_training_subsets_load_without_a_problem(mini: Path, tmp_path: Path, split: str):
    subsets = load_mmeb(mini / "mini-MMEB-train", split=split, cache_dir=str(tmp_path))
    assert set(subsets) == {name for name, subset in SUBSETS.items() if subset.ind}
    modalities = set()
    for name, dataset in subsets.items():
        problems, summary = check_pairs(dataset, show_progress_bar=False)
        assert len(dataset) == 12 and summary.errors == 0, (name, problems)
        assert not {"image placeholder in a text", "text that reads like an image path"} & set(summary.counts)
        for column in ("anchor", "positive"):
            modalities |= {kind for kind, count in summary.modalities[column].items() if count}
    assert {"text", "image + text"} <= modalities


def test_all_evaluation_subsets_load_with_the_truth_first(mini: Path, tmp_path: Path):
    subsets = load_mmeb_eval(mini / "MMEB-eval", cache_dir=str(tmp_path))
    assert len(subsets) == len(SUBSETS)
    for dataset in subsets.values():
        documents, candidates = split_candidates(dataset)
        assert len(dataset) == len(candidates) == 4 and all(len(row) > 1 for row in candidates)
        truth = documents[int(candidates[0][0])]["document"]
        first = dataset[0]["candidates"][0]
        assert truth["text"] == first["text"] and (truth["image"] is None) == (first["image"] is None)
        assert "<|image_" not in "".join(text for text in texts(documents) if text)


def texts(documents: Dataset) -> list[str | None]:
    cells = documents.with_format("arrow")[:].column("document").to_pylist()
    return [cell["text"] for cell in cells]
