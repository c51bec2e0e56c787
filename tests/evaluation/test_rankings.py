"""Stored rankings have MMEB's own hit@1 in every case, and their metrics are those that the leaderboard defines."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import mteb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from saha_st.evaluation import Embedder, mmeb_tasks
from saha_st.evaluation.metrics import KS, METRICS, Judged, mean_metrics
from saha_st.evaluation.mmeb import HIT_AT_1
from saha_st.evaluation.rankings import (
    NUM_KEPT,
    Rankings,
    RankingsSource,
    make_rankings,
    rank_list,
    read_rankings,
    write_rankings,
)

SOURCE = RankingsSource("org/m", "r1", "MMEB_CIRR", "d1")


def evaluated(model, data: Path, subset: str, folder: Path):
    """Return the rankings that a run of mteb leaves, and the score it returns."""
    (task,) = mmeb_tasks(data, subset)
    encoder = Embedder(model, name="org/m", revision="r1", show_progress_bar=False)
    options = {"cache": None, "co2_tracker": False, "show_progress_bar": False}
    (result,) = mteb.evaluate(encoder, [task], prediction_folder=folder, **options).task_results
    assert [path.name for path in folder.iterdir()] == [f"{task.metadata.name}.parquet"]
    rankings = read_rankings(folder / f"{task.metadata.name}.parquet")
    assert rankings.source == RankingsSource("org/m", "r1", task.metadata.name, task.metadata.revision)
    return rankings, result.scores["test"][0]


def coarse(encode):
    """Vectors of four kinds only, so that most lists have ties."""
    return lambda inputs, **options: np.where(np.floor(1000 * encode(inputs, **options)[:, :2]) % 2, 1.0, -1.0)


def nan_for_odd(encode):
    return lambda inputs, **options: np.where(np.arange(len(inputs))[:, None] % 2, encode(inputs, **options), np.nan)


CASES = {
    "as it is": lambda encode: encode,
    "ties": coarse,
    "all tied": lambda encode: lambda inputs, **options: np.full((len(inputs), 32), 0.1, dtype=np.float32),
    "some are not numbers": nan_for_odd,
    "none are numbers": lambda encode: lambda inputs, **options: np.full((len(inputs), 32), np.nan),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("subset", ["CIRR", "MSCOCO_t2i"])  # lists of less and of more than ten candidates
def test_the_hit_at_1_of_a_stored_ranking_is_that_of_the_result(
    case: str, subset: str, embedder, mmeb: Path, tmp_path: Path
):
    if case == "ties":
        embedder.encode_query = coarse(embedder.encode_query)
    embedder.encode_document = CASES[case](embedder.encode_document)
    rankings, scores = evaluated(embedder, mmeb, subset, tmp_path / "rankings")
    assert len(rankings) == scores["num_queries"] > 0
    assert mean_metrics(rankings.judged)["hit@1"] == scores[HIT_AT_1]
    expected = {"all tied": {1.0}, "none are numbers": {0.0}}
    assert (scores[HIT_AT_1] in expected[case]) if case in expected else (0 < scores[HIT_AT_1] < 1)


def brute_force(candidates: list[str], similarities: list[float]) -> list[str]:
    """Take the best that is left, again and again; the first of those that tie."""
    left, found = list(range(len(candidates))), []
    while left and len(found) < NUM_KEPT:
        numbers = [index for index in left if not math.isnan(similarities[index])]
        best = left[0]
        for index in numbers:
            if math.isnan(similarities[best]) or similarities[index] > similarities[best]:
                best = index
        left.remove(best)
        found.append(candidates[best])
    return found


def ranked(queries: list[tuple], graded: bool = False) -> Rankings:
    """Rankings whose truths are the first candidates, or several candidates of several grades."""
    lists = [rank_list(*each) for each in queries]
    return make_rankings(
        SOURCE, [replace(each, relevant=grades_of(each.query)) for each in lists] if graded else lists
    )


def grades_of(query: str) -> dict[str, int]:
    rng = np.random.default_rng(int(query[1:]))
    return {f"d{index}": int(rng.integers(1, 4)) for index in rng.permutation(40)[: rng.integers(1, 16)]}


def random_queries(count: int) -> list[tuple[str, list[str], np.ndarray]]:
    rng = np.random.default_rng(0)
    queries = []
    for number in range(count):
        length = int(rng.integers(1, 25))
        similarities = rng.integers(0, 6, length) / 5 if number % 2 else rng.standard_normal(length)
        similarities[rng.random(length) < (number % 4) / 4] = np.nan
        queries.append((f"q{number}", [f"d{index}" for index in rng.permutation(40)[:length]], similarities))
    return queries


def test_candidates_are_ranked_as_by_brute_force(tmp_path: Path):
    queries = random_queries(200)
    read = read_rankings(write_rankings(ranked(queries), tmp_path))
    assert read.source == SOURCE
    places = []
    for row, (query, candidates, similarities) in zip(read.table.to_pylist(), queries, strict=True):
        best = brute_force(candidates, similarities.tolist())
        assert (row["query"], row["relevant"], row["grades"]) == (query, [candidates[0]], [1])
        assert row["candidates"] == len(candidates)
        assert row["documents"] == best
        of = dict(zip(candidates, similarities.tolist(), strict=True))
        assert row["similarities"] == [None if math.isnan(of[name]) else of[name] for name in best]
        place = best.index(candidates[0]) + 1 if candidates[0] in best else 0
        places.append(0 if math.isnan(similarities[0]) else place)
    gains = read.judged.gains
    assert np.where(gains.any(axis=1), gains.argmax(axis=1) + 1, 0).tolist() == places and gains.max() == 1
    assert set(places) == set(range(NUM_KEPT + 1))  # every case is there


def literal(name: str, k: int, ranked: list[str], relevant: dict[str, int]) -> float:
    """The definitions for any number of relevant documents of any grade, as they are written in textbooks."""
    first = ranked[:k]
    hits = sum(document in relevant for document in first)
    precision, recall = hits / k, hits / len(relevant)
    if name == "mrr":
        return max((1 / (index + 1) for index, document in enumerate(first) if document in relevant), default=0.0)
    if name == "map":
        found = [index for index, document in enumerate(first) if document in relevant]
        total = sum(sum(each in relevant for each in first[: index + 1]) / (index + 1) for index in found)
        return total / min(len(relevant), k)
    if name.startswith("ndcg"):
        gain = (lambda grade: grade) if name == "ndcg_linear" else (lambda grade: 2**grade - 1)
        gained = sum(gain(relevant.get(document, 0)) / math.log2(index + 2) for index, document in enumerate(first))
        best = sorted(relevant.values(), reverse=True)[:k]
        return gained / sum(gain(grade) / math.log2(index + 2) for index, grade in enumerate(best))
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return {"hit": float(hits > 0), "precision": precision, "recall": recall, "f1": f1}[name]


@pytest.mark.parametrize("graded", [False, True])
def test_metrics_are_those_of_their_definitions(graded: bool, tmp_path: Path):
    rankings = read_rankings(write_rankings(ranked(random_queries(300), graded), tmp_path))
    found = mean_metrics(rankings.judged)
    assert list(found)[:4] == ["hit@1", "hit@5", "hit@10", "ndcg_linear@1"] and len(found) == 24
    rows = rankings.table.to_pylist()
    numbers = [
        [d for d, s in zip(row["documents"], row["similarities"], strict=True) if s is not None] for row in rows
    ]
    relevant = [dict(zip(row["relevant"], row["grades"], strict=True)) for row in rows]
    assert (max(len(each) for each in relevant) > NUM_KEPT) == graded
    for name in METRICS:
        for k in KS:
            values = [literal(name, k, *each) for each in zip(numbers, relevant, strict=True)]
            assert 0 < np.mean(values) < 1
            assert found[f"{name}@{k}"] == pytest.approx(np.mean(values), abs=1e-12), (name, k)
    if graded:
        assert found["ndcg_linear@5"] != pytest.approx(found["ndcg_exponential@5"], abs=1e-3)


def test_metrics_are_those_that_the_leaderboard_has_published():
    """VLM2Vec-V1-Qwen2VL-7B on HatefulMemes: two candidates, 697 of 1000 truths first and so the others second."""
    gains, ideal = np.zeros((1000, NUM_KEPT)), np.zeros((1000, NUM_KEPT))
    gains[np.arange(1000), np.repeat([0, 1], [697, 303])] = ideal[:, 0] = 1
    found = mean_metrics(Judged(gains, ideal, np.ones(1000), np.ones(1000)))
    published = {
        "hit@1": 0.697,
        "hit@5": 1.0,
        "ndcg_linear@1": 0.697,
        "ndcg_linear@5": 0.8881717153321518,
        "ndcg_exponential@10": 0.8881717153321518,
        "precision@5": 0.2,
        "precision@10": 0.1,
        "recall@5": 1.0,
        "f1@5": 0.3333333333333333,
        "f1@10": 0.18181818181818182,
        "map@1": 0.697,
        "map@5": 0.8485,
        "mrr@10": 0.8485,
    }
    assert {name: found[name] for name in published} == pytest.approx(published, abs=1e-12)


def test_a_file_that_holds_no_rankings_is_refused(tmp_path: Path):
    good = write_rankings(ranked(random_queries(3)), tmp_path)
    table = pq.read_table(good)
    with pytest.raises(FileNotFoundError, match="nowhere.parquet.*Evaluate the task again"):
        read_rankings(tmp_path / "nowhere.parquet")

    def refused(table: pa.Table, reason: str) -> None:
        pq.write_table(table, tmp_path / "bad.parquet")
        with pytest.raises(ValueError, match=f"bad.parquet.*{reason}.*Evaluate the task again"):
            read_rankings(tmp_path / "bad.parquet")

    metadata = {name.decode(): value.decode() for name, value in table.schema.metadata.items()}
    refused(table.drop_columns("grades"), "columns are")
    refused(table.append_column("more", pa.array([1, 2, 3])), "'more': 'int64'")
    refused(table.replace_schema_metadata({}), "metadata lack.*'format_version'")
    refused(table.replace_schema_metadata(metadata | {"format_version": "0"}), "format version is '0'")
    refused(table.slice(0, 0), "no rows")
    for without in ([None, ["d1"], ["d2"]], [["d0"], ["d1"], [None]]):
        refused(table.set_column(1, "relevant", pa.array(without)), "a cell is empty")
    grades = pa.array([[1], [1, 1], [1]], pa.list_(pa.int32()))
    refused(table.set_column(2, "grades", grades), "row 1 does not have a grade for each")
    refused(table.set_column(3, "candidates", pa.array([1, 1, 1], pa.int32())), "row . does not have as many")
    good.write_bytes(good.read_bytes()[:100])
    with pytest.raises(ValueError, match="not a Parquet file.*Delete it"):
        read_rankings(good)


def test_files_of_the_first_version_which_had_one_truth_and_no_grades_are_read(tmp_path: Path):
    rankings = ranked(random_queries(30))
    file = write_rankings(rankings, tmp_path)
    table = pq.read_table(file)
    metadata = {name.decode(): value.decode() for name, value in table.schema.metadata.items()}
    truths = pa.array([names[0] for names in table.column("relevant").to_pylist()])
    old = table.drop_columns(["relevant", "grades"]).add_column(1, "truth", truths)
    pq.write_table(old.replace_schema_metadata(metadata | {"format_version": "1"}), file)
    assert read_rankings(file).table.equals(rankings.table) and read_rankings(file).source == SOURCE


def test_rankings_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = write_rankings(ranked(random_queries(3)), tmp_path)
    before = file.read_bytes()

    def full(table, handle, **options):
        handle.write(b"PAR1")
        raise OSError("no space left")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="no space"):
        write_rankings(ranked(random_queries(4)), tmp_path)
    assert file.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == [file.name]
