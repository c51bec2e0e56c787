"""SugarCrepe and SugarCrepe++ through mteb: the paper's numbers to the last row, and what reaches the model."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from caption_files import (
    PP_SUBSETS,
    ROWS,
    SUBSETS,
    rows_of,
    write_captions,
    write_file,
    write_images,
    write_pp_file,
)
from mteb.benchmarks.benchmark import BenchmarkAggregation
from mteb.get_tasks import _TASKS_REGISTRY
from PIL import Image

from saha_st.evaluation import Embedder
from saha_st.evaluation.sugarcrepe import (
    COMPARISONS,
    paired_cosines,
    score_rows,
    sugarcrepe_benchmark,
    sugarcrepe_pp_benchmark,
    sugarcrepe_pp_tasks,
    sugarcrepe_tasks,
)
from saha_st.prompts import QUERY_SUFFIX

END = "<|im_end|>\n<|im_start|>assistant\n"
PREFIX = "Find me an image that matches the given caption: "
PICTURE = "<|vision_start|><image><|vision_end|>"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both benchmarks, `crepe` and `pp`; never written to by a test."""
    return write_captions(tmp_path_factory.mktemp("captions"))


def run(model: Any, tasks: Any, **options: Any) -> dict[str, dict[str, Any]]:
    """Scores by task."""
    encoder = model if isinstance(model, Embedder) else Embedder(model, show_progress_bar=False)
    options = {"cache": None, "co2_tracker": False, "show_progress_bar": False} | options
    results = mteb.evaluate(encoder, tasks, encode_kwargs={"batch_size": 4}, **options).task_results
    return {result.task_name: result.scores["test"][0] for result in results}


@pytest.fixture(scope="module")
def scores(_embedder, folder: Path) -> dict[str, dict[str, Any]]:
    tasks = [*sugarcrepe_tasks(folder / "crepe"), *sugarcrepe_pp_tasks(folder / "pp")]
    return run(_embedder, tasks)


def reference(model: Any, images: Path, rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """The hits by the rules of the papers, over vectors encoded one at a time."""
    known: dict[Any, np.ndarray] = {}

    def text(words: str) -> np.ndarray:
        if words not in known:
            known[words] = np.asarray(model.encode_query([{"text": PREFIX + words}])[0], dtype=np.float64)
        return known[words]

    def image(name: str) -> np.ndarray:
        if Path(name) not in known:
            picture = Image.open(images / name).convert("RGB")
            known[Path(name)] = np.asarray(model.encode_document([{"image": picture}])[0], dtype=np.float64)
        return known[Path(name)]

    def cos(a: np.ndarray, b: np.ndarray) -> float:
        return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))

    hits: dict[str, list[bool]] = {"SugarCrepe": [], "ITT": [], "TOT": []}
    for row in rows:
        picture, first = image(row["filename"]), text(row["caption"])
        second, wrong = text(row["caption2"]), text(row["negative_caption"])
        beaten = cos(picture, first) > cos(picture, wrong)
        hits["SugarCrepe"].append(beaten)
        hits["ITT"].append(beaten and cos(picture, second) > cos(picture, wrong))
        hits["TOT"].append(cos(first, second) > cos(first, wrong) and cos(first, second) > cos(second, wrong))
    return {name: np.array(found) for name, found in hits.items()}


def test_scores_equal_the_independent_scorer_to_the_last_row(embedder, scores, folder: Path):
    seen = {"SugarCrepe": 0, "ITT": 0, "TOT": 0}
    for subset in SUBSETS:
        expected = reference(embedder, folder / "pp" / "val2017", rows_of(subset))
        names = {"SugarCrepe": f"SugarCrepe_{subset}"}
        if subset in PP_SUBSETS:
            names |= {name: f"SugarCrepePP_{subset}_{name}" for name in ("ITT", "TOT")}
        for meta_task, name in names.items():
            found = scores[name]
            assert found["accuracy"] == found["main_score"] == expected[meta_task].mean(), name
            assert found["num_queries"] == ROWS and found["all_tied"] == found["undefined"] == 0
            assert found["chance"] == (1 / 2 if meta_task == "SugarCrepe" else 1 / 3)
            seen[meta_task] += expected[meta_task].sum()
    assert len(scores) == 7 + 5 + 5
    for meta_task, hits in seen.items():  # or the comparison would say little
        assert 0 < hits < ROWS * (7 if meta_task == "SugarCrepe" else 5)


def test_ties_are_misses_for_identical_captions(embedder, tmp_path: Path):
    rows = rows_of("swap_obj")
    same = [row | {"negative_caption": row["caption"]} for row in rows]
    write_file(tmp_path / "swap_obj.json", same)
    write_images(tmp_path / "images")
    (found,) = run(embedder, sugarcrepe_tasks(tmp_path, "swap_obj")).values()
    assert found["accuracy"] == 0 and found["all_tied"] == 1 and found["undefined"] == 0

    second = [row | {"negative_caption": row["caption2"]} for row in rows]
    all_same = [row | {"negative_caption": row["caption"], "caption2": row["caption"]} for row in rows]
    write_pp_file(tmp_path / "swap_obj.json", [*same, *second, *all_same])
    for name, found in run(embedder, sugarcrepe_pp_tasks(tmp_path, "swap_obj")).items():
        assert found["accuracy"] == 0, name
        assert found["all_tied"] == pytest.approx(1 / 3), name


def test_vectors_that_are_not_numbers_are_misses_and_counted(embedder, folder: Path):
    encode = embedder.encode_query

    def broken(inputs: list[dict[str, Any]], **options: Any) -> np.ndarray:
        bad = np.array(["blue" in each["text"].split(", ")[0] for each in inputs])
        return np.where(bad[:, None], np.nan, encode(inputs, **options))

    embedder.encode_query = broken
    for name, found in run(embedder, [*sugarcrepe_tasks(folder / "crepe", "add_att")]).items():
        bad = [any("blue" in row[part] for part in ("caption", "negative_caption")) for row in rows_of("add_att")]
        assert found["undefined"] == np.mean(bad) > 0, name
        assert found["accuracy"] <= 1 - np.mean(bad)
    embedder.encode_query = lambda inputs, **options: np.full((len(inputs), 32), np.nan)
    for found in run(embedder, sugarcrepe_pp_tasks(folder / "pp", "swap_obj")).values():
        assert found["accuracy"] == found["all_tied"] == 0 and found["undefined"] == 1


def test_captions_are_prefixed_queries_and_images_bare_documents_each_encoded_once(embedder, rendered, folder: Path):
    encoder = Embedder(embedder, show_progress_bar=False)
    itt, tot = sugarcrepe_pp_tasks(folder / "pp", "replace_rel")
    (crepe,) = sugarcrepe_tasks(folder / "crepe", "replace_rel")
    run(encoder, itt)
    turns = Counter(text.split("<|im_start|>user\n")[1] for text in rendered)
    captions = {row[part] for row in rows_of("replace_rel") for part in ("caption", "caption2", "negative_caption")}
    queries = {f"{PREFIX}{caption}{QUERY_SUFFIX['text']}{END}" for caption in captions}
    assert set(turns) == queries | {f"{PICTURE}{END}"}
    assert turns.pop(f"{PICTURE}{END}") == ROWS // 2  # the distinct pictures
    assert set(turns.values()) == {1}
    rendered.clear()
    run(encoder, [tot, crepe])  # of the same captions, and in other files the same pictures
    assert all(PICTURE in text for text in rendered) and len(rendered) <= ROWS // 2


def test_a_model_of_texts_alone_runs_tot_but_not_itt(embedder, folder: Path):
    encoder = Embedder(embedder, show_progress_bar=False)
    encoder.mteb_model_meta = encoder.mteb_model_meta.model_copy(update={"modalities": ["text"]})
    assert len(run(encoder, sugarcrepe_pp_tasks(folder / "pp", "swap_obj", meta_tasks=["TOT"]))) == 1
    with pytest.raises(ValueError, match="SugarCrepePP_swap_obj_ITT"):
        run(encoder, sugarcrepe_pp_tasks(folder / "pp", "swap_obj", meta_tasks=["ITT"]))


@pytest.mark.parametrize("dim", [1, 3, 32, 127, 1536])
def test_equal_pairs_get_equal_cosines_wherever_they_stand_and_either_way_round(dim: int):
    rng = np.random.default_rng(dim)
    distinct = rng.standard_normal((7, dim)).astype(np.float32)
    first, second = distinct[rng.integers(0, 7, 61)], distinct[rng.integers(0, 7, 61)]
    forth, back = paired_cosines(first, second), paired_cosines(second, first)
    assert (forth == back).all() and np.abs(forth).max() <= 1 + 1e-12
    pairs = [tuple(sorted([a.tobytes(), b.tobytes()])) for a, b in zip(first, second, strict=True)]
    assert len(set(pairs)) < 61 and len(set(forth.tolist())) <= len(set(pairs))
    by_pair = dict(zip(pairs, forth.tolist(), strict=True))
    assert [by_pair[pair] for pair in pairs] == forth.tolist()
    expected = [
        (a @ b) / np.sqrt((a @ a) * (b @ b)) for a, b in zip(first.astype(float), second.astype(float), strict=True)
    ]
    assert np.allclose(forth, expected)
    assert np.isnan(paired_cosines(first, 0 * second)).all()


@pytest.mark.parametrize("meta_task", list(COMPARISONS))
def test_chance_is_what_vectors_drawn_at_random_score(meta_task: str):
    rng = np.random.default_rng(0)
    vectors = {name: rng.standard_normal((20000, 8)) for name in ("image", "caption", "caption2", "negative_caption")}
    pairs = {pair for comparison in COMPARISONS[meta_task] for pair in comparison}
    found = score_rows({(a, b): paired_cosines(vectors[a], vectors[b]) for a, b in pairs}, COMPARISONS[meta_task])
    assert found["accuracy"] == pytest.approx(found["chance"], abs=0.011)  # three standard deviations


def test_the_benchmarks_have_the_tasks_and_the_means_that_papers_quote(_embedder, scores, folder: Path, monkeypatch):
    crepe, pp = sugarcrepe_benchmark(folder / "crepe"), sugarcrepe_pp_benchmark(folder / "pp")
    assert [task.spec.subset for task in crepe.tasks] == SUBSETS
    assert {task.spec.meta_task for task in crepe.tasks} == {"SugarCrepe"}
    assert (crepe.name, pp.name) == ("SugarCrepe(v1)", "SugarCrepe++")
    assert crepe.aggregations == (BenchmarkAggregation.MEAN_TASK,)
    (grouping,) = pp.aggregations
    assert {group.label: [task.spec.subset for task in group.tasks] for group in grouping.groups} == {
        "ITT": PP_SUBSETS,
        "TOT": PP_SUBSETS,
    }
    names = [task.metadata.name for task in (*crepe.tasks, *pp.tasks)]
    assert len(set(names)) == 17 and not set(names) & set(_TASKS_REGISTRY)
    for task in (*crepe.tasks, *pp.tasks):  # mteb looks up the tasks of results by name
        monkeypatch.setitem(_TASKS_REGISTRY, task.metadata.name, type(task))
    options = {"cache": None, "co2_tracker": False, "show_progress_bar": False}
    encoder = Embedder(_embedder, show_progress_bar=False)
    mean = crepe._get_model_score(mteb.evaluate(encoder, crepe, **options))
    assert mean["Mean(Task)"] == pytest.approx(np.mean([scores[f"SugarCrepe_{name}"]["accuracy"] for name in SUBSETS]))
    means = pp._get_model_score(mteb.evaluate(encoder, pp, **options))
    for name in ("ITT", "TOT"):
        found = [scores[f"SugarCrepePP_{subset}_{name}"]["accuracy"] for subset in PP_SUBSETS]
        assert means[f"Meta-task::{name}"] == pytest.approx(np.mean(found))
    assert "Mean(Task)" not in means


def test_results_and_similarities_are_written_where_mteb_writes_them(embedder, folder: Path, tmp_path: Path):
    from mteb.cache import ResultCache

    tasks = sugarcrepe_pp_tasks(folder / "pp", "swap_obj")
    options = {"cache": ResultCache(tmp_path / "out"), "prediction_folder": tmp_path / "predictions"}
    first = run(embedder, tasks, **options)
    files = sorted(path.name for path in (tmp_path / "out").rglob("SugarCrepePP_*.json"))
    assert files == ["SugarCrepePP_swap_obj_ITT.json", "SugarCrepePP_swap_obj_TOT.json"]
    written = json.loads(
        next((tmp_path / "predictions").rglob("SugarCrepePP_swap_obj_TOT_predictions.json")).read_text()
    )
    found = {tuple(name.split(" ~ ")): np.array(values) for name, values in written["default"]["test"].items()}
    assert score_rows(found, COMPARISONS["TOT"])["accuracy"] == first["SugarCrepePP_swap_obj_TOT"]["accuracy"]


def test_other_rows_or_pictures_are_another_revision_and_the_same_ones_are_not(folder: Path, tmp_path: Path):
    data = Path(shutil.copytree(folder / "pp", tmp_path / "pp"))

    def revisions(**options: Path) -> list[str]:
        return [task.metadata.revision for task in sugarcrepe_pp_tasks(data, "swap_obj", **options)]

    first_itt, first_tot = revisions()
    assert [first_itt, first_tot] == revisions() and first_itt != first_tot
    picture = data / "val2017" / rows_of("swap_obj")[0]["filename"]
    os.utime(picture, ns=(1, 1))
    itt, tot = revisions()
    assert itt != first_itt and tot == first_tot  # which looks at no picture
    elsewhere = write_images(tmp_path / "elsewhere")
    assert revisions(image_root=elsewhere)[0] not in (itt, first_itt)
    write_pp_file(data / "swap_obj.json", rows_of("swap_obj")[1:])
    assert not {*revisions()} & {itt, tot}

    def on_the_hub(**options: Any) -> list[str]:
        return [task.metadata.revision for task in sugarcrepe_pp_tasks(None, "swap_obj", **options)]

    itt, tot = on_the_hub(image_root=elsewhere)
    assert itt.startswith("main-") and tot == "main" and [itt, tot] == on_the_hub(image_root=elsewhere)
    (elsewhere / "000000000001.png").unlink()
    assert on_the_hub(image_root=elsewhere)[0] != itt
    assert {task.metadata.revision for task in sugarcrepe_tasks(revision="abc")} == {"abc"}


def test_tasks_on_the_hub_are_made_without_asking_it(tmp_path: Path):
    tasks = sugarcrepe_tasks()
    assert [task.metadata.dataset["path"] for task in tasks][3] == "HuggingFaceM4/SugarCrepe_swap_obj"
    with pytest.raises(ValueError, match="Aman-J/SugarCrepe_pp holds file names, but no images.*COCO val2017"):
        sugarcrepe_pp_tasks()
    assert len(sugarcrepe_pp_tasks(meta_tasks="TOT")) == 5
    assert len(sugarcrepe_pp_tasks(image_root=tmp_path)) == 10


def test_what_cannot_be_scored_is_refused_before_anything_is_encoded(embedder, folder: Path, tmp_path: Path):
    embedder.encode_query = embedder.encode_document = None  # nothing may be encoded
    with pytest.raises(ValueError, match="no subset 'swap_objects'. Did you mean 'swap_obj'"):
        sugarcrepe_tasks(folder / "crepe", "swap_objects")
    with pytest.raises(ValueError, match=r"meta_tasks: expected some of \['ITT', 'TOT'\], received \['IIT'\]"):
        sugarcrepe_pp_tasks(folder / "pp", meta_tasks="IIT")
    with pytest.raises(FileNotFoundError, match="add_obj.json"):
        sugarcrepe_tasks(folder / "pp", "add_obj")
    with pytest.raises(FileNotFoundError, match="image_root: .* is no folder"):
        sugarcrepe_tasks(folder / "crepe", image_root=tmp_path / "nowhere")
    data = Path(shutil.copytree(folder / "crepe", tmp_path / "crepe"))
    (data / "data" / "coco" / "images" / "val2017" / rows_of("add_att")[2]["filename"]).unlink()
    tasks = sugarcrepe_tasks(data, "add_att")
    with pytest.raises(FileNotFoundError, match=r"add_att.*Row 4, column 'filename'.*000000000001.png"):
        run(embedder, tasks)
    for content, message in (("[1, ", "not JSON"), ("[]", "has no rows"), ('[{"filename": "a"}]', "row 0 lacks")):
        (data / "data" / "add_att.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            run(embedder, sugarcrepe_tasks(data, "add_att"))


def test_an_encoder_that_is_not_ours_gets_batches_of_texts_and_of_images(folder: Path):
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ModelMeta

    class Counting(AbsEncoder):
        """Texts by their letters, images by their colour; as tensors, and batch by batch."""

        mteb_model_meta = ModelMeta.create_empty({"name": "me/letters", "modalities": ["text", "image"]})

        def encode(self, inputs: Any, *, prompt_type: Any, **options: Any) -> Any:
            import torch

            found = []
            for batch in inputs:
                (cells,) = batch.values()
                for cell in cells:
                    letters = str(cell) if isinstance(cell, str) else f"abc{np.asarray(cell).mean():.3f}"
                    counts = Counter(letters)
                    found.append([float(counts[chr(code)]) for code in range(32, 127)])
            assert len(found) == (ROWS if prompt_type.value == "document" else 3 * ROWS)
            return torch.tensor(found, dtype=torch.bfloat16)

    found = mteb.evaluate(
        Counting(), sugarcrepe_pp_tasks(folder / "pp", "swap_att"), cache=None, co2_tracker=False
    ).task_results
    assert [result.scores["test"][0]["undefined"] for result in found] == [0, 0]
