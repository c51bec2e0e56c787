from __future__ import annotations

from pathlib import Path

import pytest
from mmeb_folder import write_all_subsets, write_mmeb
from mmeb_v2_files import write_page_tasks, write_video_tasks

from saha_st.card.run_folders import RunFolder


@pytest.fixture(scope="session")
def mmeb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the schema of MMEB-eval; never written to by a test."""
    return write_mmeb(tmp_path_factory.mktemp("mmeb") / "MMEB-eval")


@pytest.fixture(scope="session")
def mmeb_v2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the videos and pages of MMEB-V2; never written to by a test."""
    root = tmp_path_factory.mktemp("mmeb-v2")
    write_video_tasks(root, videos=6)
    write_page_tasks(root, queries=6, pages=8)
    return root


@pytest.fixture(scope="session")
def mmeb_v2_report(_embedder, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, object, object]:
    """All 78 tasks of MMEB-V2 on few rows: where the results are, the benchmark, and the scores; not to be changed."""
    from saha_st.evaluation import Embedder, evaluate, find_benchmark

    folder = tmp_path_factory.mktemp("mmeb-v2-report")
    write_video_tasks(folder / "data")
    write_page_tasks(folder / "data", queries=2, pages=3)
    write_all_subsets(folder / "data" / "image-tasks")
    benchmark = find_benchmark("MMEB(v2)", data_dir=folder / "data")
    encoder = Embedder(_embedder, name="org/saha", show_progress_bar=False)
    scores = evaluate(encoder, benchmark, output_dir=folder / "out", show_progress_bar=False)
    return RunFolder(folder / "out", "org/saha", encoder.mteb_model_meta.revision), benchmark, scores


@pytest.fixture
def rendered(embedder) -> list[str]:
    """The strings that reach the model, image tokens as one mark; filled while it encodes."""
    found: list[str] = []
    preprocess = embedder[0].preprocess

    def spy(*args, **kwargs):
        features = preprocess(*args, **kwargs)
        for ids, mask in zip(features["input_ids"], features["attention_mask"], strict=True):
            text = embedder.tokenizer.decode(ids[mask.bool()])
            found.append("<image>".join(part for part in text.split("<|image_pad|>") if part))
        return features

    embedder[0].preprocess = spy
    return found
