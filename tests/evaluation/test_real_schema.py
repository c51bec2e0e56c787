"""Tasks of MIEB, ViDoRe and MTEB as mteb has them, on small data in the schema of their own datasets."""

from __future__ import annotations

import io
from pathlib import Path

import datasets
import mteb
import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Image
from mteb.abstasks.abstask import AbsTask
from PIL import Image as PIL

from saha_st.data.scenes import write_mini_mmeb
from saha_st.evaluation import evaluate
from saha_st.modules import load_embedder

QUIET = {"show_progress_bar": False}
ROWS = 16


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of earlier runs go by the same names: what datasets remembers of them is of pictures long gone."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture(scope="module")
def saha_tiny():
    return load_embedder("saha-tiny", device="cpu")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated pictures with captions, with other pictures to tell them from, and of digits."""
    subsets = ["Scenes_t2i", "Digits"]
    root = tmp_path_factory.mktemp("data") / "mini"
    return write_mini_mmeb(root, train_rows=80, eval_rows=ROWS, candidates=12, subsets=subsets) / "MMEB-eval"


def rows_of(scenes: Path, subset: str) -> list[dict]:
    return pq.read_table(scenes / subset).to_pylist()


def pictures(folder: Path, paths: list[str]) -> list[dict]:
    """Pictures as repositories hold them: in the Parquet file."""
    return [{"bytes": (folder / path).read_bytes(), "path": None} for path in paths]


def decoded(images: list[dict]) -> list[dict]:
    return [{"image": PIL.open(io.BytesIO(each["bytes"])).convert("RGB")} for each in images]


def write_configs(folder: Path, configs: dict[str, dict[str, Dataset]]) -> None:
    """Write a dataset repository: Parquet files, and their places in the front matter of its README."""
    lines = ["---", "configs:"]
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            file = folder / config / f"{split}.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            rows.to_parquet(file)
            lines += [f"  - split: {split}", f"    path: {config}/{split}.parquet"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


def at(task: AbsTask, folder: Path) -> AbsTask:
    """Let a task of mteb read its dataset from a folder."""
    task.metadata = task.metadata.model_copy(update={"dataset": {"path": str(folder), "revision": "main"}})
    return task


def captions_and_pictures(scenes: Path) -> tuple[list[str], list[dict]]:
    rows = rows_of(scenes, "Scenes_t2i")
    return [row["qry_text"] for row in rows], pictures(
        scenes / "eval_images", [row["tgt_img_path"][0] for row in rows]
    )


def test_vidore_finds_pages_for_questions_in_every_language(saha_tiny, scenes: Path, tmp_path: Path):
    captions, pages = captions_and_pictures(scenes)
    languages = ["french", "spanish", "english", "german"]
    queries = {
        "query-id": list(range(ROWS)),
        "query": captions,
        "language": [languages[row % 4] for row in range(ROWS)],
    }
    corpus = Dataset.from_dict({"corpus-id": list(range(ROWS)), "image": pages}).cast_column("image", Image())
    qrels = {"query-id": list(range(ROWS)), "corpus-id": list(range(ROWS)), "score": [1] * ROWS}
    parts = {"queries": Dataset.from_dict(queries), "corpus": corpus, "qrels": Dataset.from_dict(qrels)}
    write_configs(tmp_path, {name: {"test": rows} for name, rows in parts.items()})
    task = at(mteb.get_task("Vidore2ESGReportsRetrieval"), tmp_path)
    score = evaluate(saha_tiny, [task], output_dir=tmp_path / "out", **QUIET).tasks["Vidore2ESGReportsRetrieval"]
    assert score.metric == "ndcg_at_5" and score.chance == pytest.approx(0.184, abs=0.01)
    vectors = saha_tiny.encode_query(captions) @ saha_tiny.encode_document(decoded(pages)).T
    ranks = (vectors > np.diag(vectors)[:, None]).sum(axis=1)
    assert score.score == pytest.approx(np.where(ranks < 5, 1 / np.log2(ranks + 2), 0).mean(), abs=1e-4)
    assert score.score > 2 * score.chance and not score.is_at_chance


def test_mieb_classifies_pictures(saha_tiny, scenes: Path, tmp_path: Path):
    train = pq.read_table(scenes.parent / "mini-MMEB-train" / "Digits" / "original-00000-of-00001.parquet").to_pylist()
    labels = sorted({row["pos_text"] for row in train})
    splits = {
        "train": (
            pictures(scenes.parent / "mini-MMEB-train", [row["qry_image_path"] for row in train]),
            [r["pos_text"] for r in train],
        ),
        "test": (
            pictures(scenes / "eval_images", [row["qry_img_path"] for row in rows_of(scenes, "Digits")]),
            [row["tgt_text"][0] for row in rows_of(scenes, "Digits")],
        ),
    }
    data = {
        split: Dataset.from_dict({"img": images, "label": [labels.index(text) for text in texts]}).cast_column(
            "img", Image()
        )
        for split, (images, texts) in splits.items()
    }
    write_configs(tmp_path, {"default": data})
    (score,) = evaluate(saha_tiny, [at(mteb.get_task("CIFAR10"), tmp_path)], **QUIET).tasks.values()
    assert score.metric == "accuracy" and score.num_queries == ROWS
    assert score.score > 0.5 and not score.is_at_chance


def test_mieb_retrieves_pictures_for_a_picture_and_a_text(saha_tiny, scenes: Path, tmp_path: Path):
    captions, documents = captions_and_pictures(scenes)
    ids = [str(row) for row in range(ROWS)]
    queries = Dataset.from_dict({"id": ids, "image": documents, "text": captions}).cast_column("image", Image())
    corpus = Dataset.from_dict({"id": ids, "image": documents}).cast_column("image", Image())
    qrels = Dataset.from_dict({"query-id": ids, "corpus-id": ids, "score": [1] * ROWS})
    write_configs(
        tmp_path,
        {name: {"test": rows} for name, rows in {"queries": queries, "corpus": corpus, "qrels": qrels}.items()},
    )
    (score,) = evaluate(saha_tiny, [at(mteb.get_task("CIRRIT2IRetrieval"), tmp_path)], **QUIET).tasks.values()
    cells = [image | {"text": text} for image, text in zip(decoded(documents), captions, strict=True)]
    vectors = saha_tiny.encode_query(cells) @ saha_tiny.encode_document(decoded(documents)).T
    ranks = (vectors > np.diag(vectors)[:, None]).sum(axis=1)
    assert score.score == pytest.approx(np.where(ranks < 10, 1 / np.log2(ranks + 2), 0).mean(), abs=1e-4)


def test_mteb_compares_sentences(saha_tiny, tmp_path: Path):
    pairs = {"sentence1": ["a red circle"] * 4, "sentence2": ["a red circle", "a red star", "blue", "7 and 8"]}
    write_configs(tmp_path, {"default": {"test": Dataset.from_dict({**pairs, "score": [5.0, 3.0, 1.0, 0.0]})}})
    (score,) = evaluate(saha_tiny, [at(mteb.get_task("STS12"), tmp_path)], **QUIET).tasks.values()
    assert score.metric == "cosine_spearman" and score.score > 0 and score.num_queries == 4
