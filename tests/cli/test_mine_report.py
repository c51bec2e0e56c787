"""`saha-st mine --report`: a real mining of the generated benchmark, its page and numbers, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from saha_st.cli import main
from saha_st.data.scenes import concepts_of, write_mini_mmeb
from saha_st.encoding import columns
from saha_st.files import write_text_whole
from saha_st.mining import MinedClusters
from saha_st.modules import transformer

ROWS = 24


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    root = tmp_path_factory.mktemp("mine-report") / "mini"
    write_mini_mmeb(root, train_rows=ROWS, eval_rows=1, candidates=2, subsets=["Scenes_t2i"])
    return root / "mini-MMEB-train"


def mine(train, folder, *more: str) -> list[str]:
    source = [str(train), "--format", "mmeb", "--subset", "Scenes_t2i", "--model", "saha-tiny-base", "--quiet"]
    return ["mine", *source, "--output_dir", str(folder), "--num_negatives", "5", "--device", "cpu", *more]


def test_the_report_has_the_truth_that_no_model_saw(train, tmp_path, monkeypatch):
    seen = []
    preprocess = transformer.HierarchicalPromptTransformer.preprocess

    def listening(self, inputs, *args, **options):
        seen.extend(map(str, inputs))
        return preprocess(self, inputs, *args, **options)

    monkeypatch.setattr(transformer.HierarchicalPromptTransformer, "preprocess", listening)
    monkeypatch.setattr("saha_st.encoding.engine._MOST_WORKERS", 0)  # all in this process, where it is heard
    folder = tmp_path / "mined"
    assert main(mine(train, folder, "--report", str(folder / "report.html"), "--truth_column", "concept")) == 0
    audit, mined = json.loads((folder / "audit.json").read_text()), MinedClusters.load(folder)
    concepts = concepts_of(train, "Scenes_t2i")
    assert len(seen) >= 2 * ROWS and not [text for text in seen if any(concept in text for concept in concepts)]
    negatives = [
        concepts[one] == concepts[other]
        for cluster in set(mined.labels[:, 0].tolist())
        for one in mined.rows[mined.labels[:, 0] == cluster]
        for other in mined.rows[mined.labels[:, 0] == cluster]
        if one != other
    ]
    found = audit["truth"]["in_clusters"]
    assert (found["judged"], found["contaminated"]) == (len(negatives), sum(negatives))
    assert audit["truth"]["values"] == len(set(concepts)) and audit["truth"]["rows_without"] == 0
    assert audit["fates"]["suspected false negative"] == mined.statistics["owners_filtered"] > 0
    page = (folder / "report.html").read_text("utf8")
    assert "Mined clusters of Scenes_t2i" in page and page.count("data:image/jpeg;base64,") > ROWS


def test_the_same_clusters_come_with_a_report_and_without(train, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    cache = ["--cache_folder", str(tmp_path / "vectors")]
    assert main(mine(train, one, *cache)) == 0
    assert main(mine(train, two, *cache, "--report", str(tmp_path / "report.html"))) == 0
    for name in ("clusters.parquet", "mining.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert not (one / "audit.json").exists() and json.loads((two / "audit.json").read_text())["truth"] is None


def test_a_report_that_was_killed_is_written_by_the_same_command(train, tmp_path, capsys, monkeypatch):
    cache = ["--cache_folder", str(tmp_path / "vectors")]
    straight, killed = tmp_path / "straight", tmp_path / "killed"

    def command(folder):
        return mine(train, folder, *cache, "--report", str(folder / "report.html"), "--truth_column", "concept")

    assert main(command(straight)) == 0
    with monkeypatch.context() as patched:
        patched.setattr("saha_st.mining.report.examine_clusters", interrupted)
        assert main(command(killed)) != 0
    assert sorted(path.name for path in killed.iterdir()) == ["clusters.parquet", "mining.json"]
    with monkeypatch.context() as patched:
        patched.setattr("saha_st.mining.report.write_text_whole", interrupted_at_the_page)
        assert main(command(killed)) != 0
    assert (killed / "audit.json").exists() and not (killed / "report.html").exists()
    stored = (killed / "mining.json").stat().st_mtime_ns
    monkeypatch.setattr("saha_st.mining.miner.find_clusters", None)  # whoever mines again fails
    assert main([*command(killed), "--num_negatives", "4"]) == 2
    said = capsys.readouterr().err
    assert "another mining: with" in said and "num_negatives" in said and "5, not 4" in said
    assert main(mine(train, killed, *cache)) == 2
    assert "vectors may stay" in capsys.readouterr().err
    assert main(command(killed)) == 0
    for name in ("report.html", "audit.json", "mining.json"):
        assert (killed / name).read_bytes() == (straight / name).read_bytes()
    assert (killed / "mining.json").stat().st_mtime_ns == stored
    assert main(command(killed)) == 2 and "exists already" in capsys.readouterr().err


def interrupted(*args, **options):
    raise KeyboardInterrupt


def interrupted_at_the_page(path, text):
    if path.suffix == ".html":
        raise KeyboardInterrupt
    write_text_whole(path, text)


def test_the_report_hashes_no_cell_again(train, tmp_path, monkeypatch):
    calls, column_keys = [], columns.column_keys

    def counted(dataset, column):
        calls.append(column)
        return column_keys(dataset, column)

    monkeypatch.setattr(columns, "column_keys", counted)
    assert main(mine(train, tmp_path / "mined", "--report", str(tmp_path / "report.html"))) == 0
    assert sorted(calls) == ["anchor", "positive"]


def test_what_cannot_be_reported_is_refused_before_a_model_is_loaded(train, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("saha_st.cli.mine.load_model", None)
    (tmp_path / "there.html").write_text("mine")
    refused = {
        "must end in .html": ["--report", str(tmp_path / "report.pdf")],
        "exists already": ["--report", str(tmp_path / "there.html")],
        "there is no folder": ["--report", str(tmp_path / "no" / "report.html")],
        "add --report FILE.html": ["--truth_column", "concept"],
        "no column 'topic'; it has qry": ["--report", str(tmp_path / "new.html"), "--truth_column", "topic"],
    }
    for words, options in refused.items():
        assert main(mine(train, tmp_path / "mined", *options)) == 2
        assert words in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there.html"]
    assert (tmp_path / "there.html").read_text() == "mine"


@pytest.mark.slow
def test_of_two_processes_the_first_writes_what_one_writes(train, tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "saha_st"]
    for name, start in (("one", [sys.executable, "-m", "saha_st"]), ("two", launch)):
        report = ["--report", str(tmp_path / f"{name}.html"), "--truth_column", "concept"]
        command = [*start, *mine(train, tmp_path / name, *report)]
        finished = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment)
        assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    for name in ("audit.json", "clusters.parquet", "mining.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
