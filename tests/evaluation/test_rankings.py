"""Stored rankings have MMEB's own hit@1 in every case, and their metrics are those that the leaderboard defines."""

from __future__ import annotations

import math
from pathlib import Path

import mteb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from saha_st.evaluation import Embedder, mmeb_tasks
from saha_st.evaluation.metrics import KS, METRICS, mean_metrics
from saha_st.evaluation.mmeb import HIT_AT_1
from saha_st.evaluation.rankings import NUM_KEPT, RankingsSource, make_rankings, read_rankings, write_rankings

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
    assert (rankings.places == 1).mean() == scores[HIT_AT_1]
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
    read = read_rankings(write_rankings(make_rankings(SOURCE, queries), tmp_path))
    assert read.source == SOURCE
    places = []
    for row, (query, candidates, similarities) in zip(read.table.to_pylist(), queries, strict=True):
        best = brute_force(candidates, similarities.tolist())
        assert (row["query"], row["truth"], row["candidates"]) == (query, candidates[0], len(candidates))
        assert row["documents"] == best
        of = dict(zip(candidates, similarities.tolist(), strict=True))
        assert row["similarities"] == [None if math.isnan(of[name]) else of[name] for name in best]
        place = best.index(candidates[0]) + 1 if candidates[0] in best else 0
        places.append(0 if math.isnan(similarities[0]) else place)
    assert read.places.tolist() == places
    assert set(places) == set(range(NUM_KEPT + 1))  # every case is there


def literal(name: str, k: int, ranked: list[str], relevant: set[str]) -> float:
    """The definitions for any number of relevant documents, of relevance 1, as they are written in textbooks."""
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
        gain = (lambda relevance: relevance) if name == "ndcg_linear" else (lambda relevance: 2**relevance - 1)
        gained = sum(gain(int(document in relevant)) / math.log2(index + 2) for index, document in enumerate(first))
        return gained / sum(gain(1) / math.log2(index + 2) for index in range(min(len(relevant), k)))
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return {"hit": float(hits > 0), "precision": precision, "recall": recall, "f1": f1}[name]


def test_metrics_are_those_of_their_definitions():
    queries = random_queries(300)
    rankings = make_rankings(SOURCE, queries)
    found = mean_metrics(rankings.places)
    assert list(found)[:4] == ["hit@1", "hit@5", "hit@10", "ndcg_linear@1"] and len(found) == 24
    rows = rankings.table.to_pylist()
    numbers = [
        [d for d, s in zip(row["documents"], row["similarities"], strict=True) if s is not None] for row in rows
    ]
    for name in METRICS:
        for k in KS:
            values = [literal(name, k, each, {row["truth"]}) for each, row in zip(numbers, rows, strict=True)]
            assert 0 < np.mean(values) < 1
            assert found[f"{name}@{k}"] == pytest.approx(np.mean(values), abs=1e-12), (name, k)


def test_metrics_are_those_that_the_leaderboard_has_published():
    """VLM2Vec-V1-Qwen2VL-7B on HatefulMemes: two candidates, 697 of 1000 truths first and so the others second."""
    found = mean_metrics(np.repeat([1, 2], [697, 303]))
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
    good = write_rankings(make_rankings(SOURCE, random_queries(3)), tmp_path)
    table = pq.read_table(good)
    with pytest.raises(FileNotFoundError, match="nowhere.parquet.*Evaluate the task again"):
        read_rankings(tmp_path / "nowhere.parquet")

    def refused(table: pa.Table, reason: str) -> None:
        pq.write_table(table, tmp_path / "bad.parquet")
        with pytest.raises(ValueError, match=f"bad.parquet.*{reason}.*Evaluate the task again"):
            read_rankings(tmp_path / "bad.parquet")

    metadata = {name.decode(): value.decode() for name, value in table.schema.metadata.items()}
    refused(table.drop_columns("truth"), "columns are")
    refused(table.append_column("more", pa.array([1, 2, 3])), "'more': 'int64'")
    refused(table.replace_schema_metadata({}), "metadata lack.*'format_version'")
    refused(table.replace_schema_metadata(metadata | {"format_version": "0"}), "format version is '0'")
    refused(table.slice(0, 0), "no rows")
    without = pa.array([None, "d1", "d2"])
    refused(table.set_column(1, "truth", without), "a cell is empty")
    refused(table.set_column(2, "candidates", pa.array([1, 1, 1], pa.int32())), "row . does not have as many")
    good.write_bytes(good.read_bytes()[:100])
    with pytest.raises(ValueError, match="not a Parquet file.*Delete it"):
        read_rankings(good)


def test_rankings_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = write_rankings(make_rankings(SOURCE, random_queries(3)), tmp_path)
    before = file.read_bytes()

    def full(table, handle, **options):
        handle.write(b"PAR1")
        raise OSError("no space left")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="no space"):
        write_rankings(make_rankings(SOURCE, random_queries(4)), tmp_path)
    assert file.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == [file.name]
