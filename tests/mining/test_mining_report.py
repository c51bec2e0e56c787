"""The page holds all that it shows, escapes what it is given, says the numbers that were found, and stays small."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from saha_st.data.cells import VIDEO_CELL_FEATURE
from saha_st.encoding import DistinctInputs, EncodedColumn
from saha_st.mining import MinedClusters, find_saha_clusters
from saha_st.mining.findings import examine_clusters
from saha_st.mining.miner import pairs_digest
from saha_st.mining.report import _Page, write_report
from saha_st.mining.shown import MOST_BYTES, shorten, show_cell, thumbnail
from saha_st.mining.tracing import Fate
from saha_st.mining.visits import replay_visits

HOSTILE = "<script>alert(1)</script> & \"quoted\" 'so'"
VOID = {"meta", "img", "rect", "line", "br"}


class Reader(HTMLParser):
    """Checks that elements close in order, and gathers what a browser would act on."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.images, self.addresses, self.names, self.text = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.names.append(tag)
        attributes = dict(attributes)
        self.addresses += [attributes[key] for key in ("src", "href", "data", "action", "srcset") if key in attributes]
        assert not [key for key in attributes if key.startswith("on")]
        if tag == "img":
            self.images.append(attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text("utf8"))
    reader.close()
    assert reader.open == []
    return reader


def pairs(tmp_path, rows: int = 24) -> Dataset:
    """Texts ask for pictures; the first text is hostile."""
    rng = np.random.default_rng(0)
    cells = []
    for row in range(rows):
        path = tmp_path / f"{row}.png"
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(path)
        cells.append({"image": str(path), "text": f"picture {row}"})
    anchors = [HOSTILE, *(f"find number {row}" for row in range(1, rows))]
    features = Features({"anchor": Value("string"), "positive": {"image": ImageFeature(), "text": Value("string")}})
    return Dataset.from_dict({"anchor": anchors, "positive": cells}, features=features)


def vectors(rows: int, seed: int = 0, dim: int = 16) -> tuple[EncodedColumn, EncodedColumn]:
    rng = np.random.default_rng(seed)
    documents = rng.standard_normal((rows, dim)).astype(np.float32)
    anchors = documents + rng.standard_normal((rows, dim)).astype(np.float32)
    keys = [np.array([f"{side}{row:014d}".encode() for row in range(rows)], dtype="S16") for side in "ad"]
    return tuple(
        EncodedColumn(each, DistinctInputs(key, np.arange(rows), np.arange(rows)))
        for each, key in zip((anchors, documents), keys, strict=True)
    )


def mined_of(encoded, *, num_negatives: int = 3, **settings) -> MinedClusters:
    from saha_st.mining.build import find_clusters
    from saha_st.mining.miner import _by_reference, _settings

    anchors, documents = encoded
    settings = _settings(num_negatives=num_negatives, pool_multiplier=2, **settings)
    assignment = find_clusters(anchors.embeddings, documents.embeddings, documents.distinct.index_of_row, **settings)
    mined = _by_reference(assignment, anchors.distinct, documents.distinct)
    names = {"anchor_column_name": "anchor", "positive_column_name": "positive"}
    names |= dict.fromkeys(("query_prompt", "corpus_prompt", "model_name", "prompt"))
    digest = pairs_digest(anchors.distinct, documents.distinct)
    mined.statistics.update(settings=settings, model="m", data=digest, **names)
    return mined


def test_the_page_is_whole_and_holds_all_it_shows(tmp_path):
    dataset, encoded = pairs(tmp_path), vectors(24)
    truth = [f"kind {row % 4}" for row in range(23)] + [None]
    mined = mined_of(encoded)
    report = tmp_path / "report.html"
    findings = write_report(report, dataset, encoded, mined, truth_column=truth, name="<b>mine</b>")
    page = read(report)
    assert len(page.images) > 20 and all(image["src"].startswith("data:image/jpeg;base64,") for image in page.images)
    assert all(image["alt"] for image in page.images)
    assert all(address.startswith("data:") for address in page.addresses)
    assert not {"script", "link", "iframe", "object", "form", "base"} & set(page.names)
    source = report.read_text("utf8")
    assert "http" not in source and "url(" not in source and str(tmp_path) not in source and "@import" not in source
    said = " ".join(" ".join(page.text).split())
    assert HOSTILE in said and "<script>alert" not in source and "Mined clusters of <b>mine</b>" in said
    counts = mined.statistics
    assert f"{counts['rows']} pairs became {counts['clusters']} clusters of up to 4 pairs" in said
    assert f"{100 * findings.truth.in_clusters.contamination:.1f} % of these are in truth positives" in said
    assert f"{100 * findings.truth.owner_filter.recall:.1f} % (recall)" in said
    assert "1 rows have none" in said and "color-scheme: light dark" in source and "width=device-width" in source
    assert page.names.count("table") == page.names.count("caption") == page.names.count("thead") >= 6
    assert page.names.count("svg") == 3 and len(re.findall(r'role="img" aria-label="Histogram', source)) == 3


def test_the_numbers_are_those_of_the_mining_and_of_its_pairs(tmp_path):
    dataset, encoded = pairs(tmp_path), vectors(24)
    mined = mined_of(encoded)
    found = write_report(tmp_path / "report.html", dataset, encoded, mined).to_dict()
    assert found["truth"] is None and found["visits"]["differing"] == 0
    assert (
        found["visits"]["examined"]
        == found["visits"]["of"]
        == mined.statistics["clusters"] + mined.statistics["rows_left_out"]
    )
    assert found["fates"]["suspected false negative"] == mined.statistics["owners_filtered"] > 0
    mates = mined.statistics["members"] - mined.statistics["clusters"]
    assert found["fates"]["mate"] == mates
    assert found["owner_filter_share"] == pytest.approx(
        found["fates"]["suspected false negative"] / (found["fates"]["suspected false negative"] + mates)
    )
    sizes = np.bincount(mined.labels[:, 0])
    assert found["clusters"]["pairs"] == (sizes * (sizes - 1)).sum()
    one, two = (each.embeddings / np.linalg.norm(each.embeddings, axis=1, keepdims=True) for each in encoded)
    own = np.einsum("nd,nd->n", one[mined.rows], two[mined.rows])
    said = found["similarities"]["anchor_positive"]
    assert said["mean"] == pytest.approx(own.mean(), abs=1e-6)
    assert said["quantiles"]["0.5"] == pytest.approx(np.median(own), abs=1e-6)
    low, high = found["similarities"]["bounds"]
    assert said["bins"] == np.histogram(own, bins=40, range=(low, high))[0].tolist()
    assert {sum(found["similarities"][key]["bins"]) for key in ("anchor_mate", "anchor_owner")} == {
        found["clusters"]["pairs"]
    }


def test_what_is_sampled_is_said_and_drawn_by_the_seed(tmp_path, monkeypatch):
    rows = 400
    encoded = vectors(rows)
    dataset = Dataset.from_dict({name: [f"{name} {row}" for row in range(rows)] for name in ("anchor", "positive")})
    mined = mined_of(encoded)
    monkeypatch.setattr("saha_st.mining.findings.sample_clusters", few_clusters)
    pages, truths = [], []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        options = {"most_visits": 10, "seed": seed, "truth_column": ["a", "b"] * 200}
        truths.append(write_report(tmp_path / f"{name}.html", dataset, encoded, mined, **options).truth)
        pages.append((tmp_path / f"{name}.html").read_bytes())
    assert pages[0] == pages[1] != pages[2]
    said = text_of(tmp_path / "a.html")
    assert "drawn with the seed 1" in said and "are of 20 of the " in said and "are of 10 of the " in said
    clusters = f"the 20 of {mined.statistics['clusters']} clusters that were looked at"
    visits = f"the 10 of {mined.statistics['clusters'] + mined.statistics['rows_left_out']} visits that were looked at"
    assert f"Of the negatives in {clusters}, {truths[0].in_clusters.judged} could be judged" in said
    assert f"In {clusters} {truths[0].in_clusters.negatives}" in said
    assert f"In {visits}, the owner filter changed" in said
    assert f"Candidates before the owner filter, in {visits}" in said and "All in clusters" not in said


def few_clusters(clusters, *, seed):
    from saha_st.mining.cluster_pairs import sample_clusters

    return sample_clusters(clusters, most_pairs=240, seed=seed)


def text_of(path) -> str:
    return " ".join(" ".join(read(path).text).split())


def test_the_page_of_communities_says_their_counts_and_no_others(tmp_path):
    encoded = vectors(24)
    mined = mined_of(encoded, builder="communities")
    findings = write_report(tmp_path / "report.html", pairs(tmp_path), encoded, mined, truth_column=["a", "b"] * 12)
    said, counts = text_of(tmp_path / "report.html"), mined.statistics
    assert "no candidates of which to tell what became" in said and "Row 0" in said
    assert findings.visits == 0 and findings.truth.owner_filter is None and findings.truth.in_clusters.judged > 0
    assert counts["edges"] > counts["edges_in_clusters"] > 0 and counts["pairs_kept_apart"] > 0
    assert f"Edges between rows {counts['edges']} of these inside clusters {counts['edges_in_clusters']}" in said
    mutual, apart = counts["mutual_pairs"], counts["pairs_kept_apart"]
    assert f"documents {mutual} of these kept apart by the owner filter {apart}" in said
    share = apart / mutual
    assert findings.filtered == share and f"The owner filter kept apart {100 * share:.1f} % of the pairs" in said
    assert "phase 2" not in said and "Owners dropped" not in said and "Owners passed" not in said


def test_communities_say_why_pairs_are_left_out(tmp_path):
    encoded = vectors(24)
    of_row = np.where(np.arange(24) < 20, 0, np.arange(24) - 19)
    document = EncodedColumn(
        encoded[1].embeddings[:5], DistinctInputs(encoded[1].distinct.keys[:5], np.unique(of_row, True)[1], of_row)
    )
    mined = mined_of((encoded[0], document), builder="communities", num_negatives=1, owner_filter=False)
    assert mined.statistics["rows_left_out"] == 16
    write_report(tmp_path / "report.html", pairs(tmp_path), (encoded[0], document), mined)
    said = text_of(tmp_path / "report.html")
    assert "No cluster has 16 of the pairs: nobody was left that they may stand beside" in said


def test_two_rows_that_are_kept_apart_are_told_so():
    with pytest.raises(ValueError, match="owner_filter keeps 1 pairs of rows apart.*--no_owner_filter"):
        mined_of(vectors(2), num_negatives=1, builder="communities")


def test_without_the_owner_filter_nothing_is_said_of_it(tmp_path):
    encoded = vectors(24)
    findings = write_report(
        tmp_path / "report.html",
        pairs(tmp_path),
        encoded,
        mined_of(encoded, owner_filter=False),
        truth_column=["a", "b"] * 12,
    )
    assert findings.filtered is None and findings.truth.owner_filter is None
    assert "The owner filter was off." in (tmp_path / "report.html").read_text("utf8")


def test_vectors_come_out_of_the_cache_and_the_truth_out_of_a_column(embedder, tmp_path, monkeypatch):
    dataset = pairs(tmp_path, rows=12).add_column("kind", ["a", "b"] * 6)
    cache = {"cache_folder": tmp_path / "vectors", "show_progress_bar": False}
    mined = find_saha_clusters(dataset, embedder, num_negatives=3, **cache)
    monkeypatch.setattr(type(embedder), "forward", None)  # whoever encodes fails
    findings = write_report(tmp_path / "report.html", dataset, embedder, mined, truth_column="kind", **cache)
    assert findings.truth.values == 2 and findings.differing == 0
    other = dataset.select(range(11))
    with pytest.raises(ValueError, match="other pairs"):
        write_report(tmp_path / "other.html", other, embedder, mined, **cache)
    embedder.truncate_dim = 8
    with pytest.raises(ValueError, match="another model"):
        write_report(tmp_path / "other.html", dataset, embedder, mined, **cache)
    assert not (tmp_path / "other.html").exists()


def test_the_page_names_the_model_its_prompt_and_the_search_and_takes_prompts_from_the_mining(
    embedder, tmp_path, monkeypatch
):
    dataset = pairs(tmp_path, rows=12)
    options = {"cache_folder": tmp_path / "vectors", "show_progress_bar": False}
    mined = find_saha_clusters(dataset, embedder, num_negatives=3, query_prompt="Name the <thing>.", **options)
    mined.save(tmp_path / "mined")
    loaded = MinedClusters.load(tmp_path / "mined")
    assert loaded.statistics["query_prompt"] == "Name the <thing>." and loaded.statistics["corpus_prompt"] is None
    monkeypatch.setattr(type(embedder), "forward", None)  # whoever encodes with another prompt fails
    write_report(tmp_path / "report.html", dataset, embedder, loaded, **options)
    said = text_of(tmp_path / "report.html")
    assert "query_prompt Name the <thing>." in said and "corpus_prompt the model's" in said
    assert "backend torch faiss_index off" in said and f"model {loaded.statistics['model_name']}" in said
    assert f"prompt of the model, system {loaded.statistics['prompt']['system']}" in said
    assert str(tmp_path) not in said


def test_a_visit_that_came_out_otherwise_shows_its_mates_and_says_so(tmp_path, monkeypatch):
    def another_search(*arguments, **options):
        for trace in replay_visits(*arguments, **options):
            yield replace(trace, cluster=trace.cluster[::-1])

    monkeypatch.setattr("saha_st.mining.findings.replay_visits", another_search)
    encoded = vectors(24)
    findings = write_report(tmp_path / "report.html", pairs(tmp_path), encoded, mined_of(encoded))
    said = text_of(tmp_path / "report.html")
    assert findings.differing > 0 and f"{findings.differing} of these visits came out otherwise" in said
    assert said.count("so what was discarded is not known") == len(findings.gallery) > 0
    assert "Mates: 3" in said and "Discarded" not in said


def test_of_what_was_discarded_suspects_come_first(tmp_path):
    encoded = vectors(24)
    findings = write_report(tmp_path / "all.html", pairs(tmp_path), encoded, mined_of(encoded))
    (case,) = [each for each in findings.gallery if each.trace][:1]
    fates = [Fate.IN_MARGIN] * 12 + [Fate.NO_FREE_OWNER, Fate.CLASH, Fate.SUSPECTED, Fate.OWN_POSITIVE, Fate.MATE]
    candidates = [replace(case.trace.candidates[0], fate=fate) for fate in fates]
    found = [each.fate for each in _Page.discarded(None, candidates)]
    assert found == [Fate.SUSPECTED, Fate.CLASH] + [Fate.IN_MARGIN] * 8


def test_only_pairs_beyond_the_limit_are_marked_as_suspect(tmp_path):
    encoded = vectors(24)
    mined = mined_of(encoded)
    cosines = write_report(tmp_path / "a.html", pairs(tmp_path), encoded, mined).pairs.anchor_anchor
    limit = float(np.sort(np.unique(cosines.round(5)))[-3]) - 1e-4
    findings = write_report(tmp_path / "b.html", pairs(tmp_path), encoded, mined, near_duplicate=limit)
    shown = findings.pairs.anchor_anchor[findings.suspects["nearest_owners"].worst]
    section = (tmp_path / "b.html").read_text("utf8").split("Mates whose owners ask")[1].split("<h3>")[0]
    assert 0 < section.count('class="card out"') == (shown >= limit).sum() < section.count('class="card') == 9


def test_what_cannot_be_is_refused_before_anything_is_read(tmp_path):
    dataset, encoded = pairs(tmp_path), vectors(24)
    mined = mined_of(encoded)
    report = tmp_path / "report.html"
    refused = [
        (tmp_path / "report.txt", {}, ValueError, "must end in .html"),
        (tmp_path / "no" / "report.html", {}, FileNotFoundError, "no folder"),
        (report, {"truth_column": "kind"}, ValueError, "no column 'kind'; it has anchor, positive"),
        (report, {"truth_column": ["a"]}, ValueError, "1 values for 24 rows"),
        (report, {"truth_column": [None] * 24}, ValueError, "none of 24 rows"),
        (report, {"near_duplicate": 2}, ValueError, "near_duplicate"),
        (report, {"most_visits": 0}, ValueError, "most_visits"),
    ]
    for path, options, error, words in refused:
        with pytest.raises(error, match=words):
            write_report(path, dataset, None, mined, **options)
    report.write_text("mine")
    with pytest.raises(FileExistsError, match="exists already"):
        write_report(report, dataset, None, mined)
    assert report.read_text() == "mine"


def test_pictures_are_small_whatever_they_show(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (900, 1200, 3), dtype=np.uint8)
    for picture in (Image.fromarray(noise), Image.new("RGBA", (3000, 5)), Image.new("L", (20, 900))):
        kind, data = thumbnail(picture).split(",")
        bytes_of = base64.b64decode(data)
        assert kind == "data:image/jpeg;base64" and len(bytes_of) <= MOST_BYTES
        assert max(Image.open(io.BytesIO(bytes_of)).size) == 88


def test_the_page_stays_small_where_every_list_is_full_and_every_picture_is_noise(tmp_path):
    dataset, encoded = pairs(tmp_path, rows=120), vectors(120)
    cells = dataset.with_format("arrow")[:].column("positive")
    dataset = Dataset.from_dict(
        {"anchor": cells.to_pylist()[::-1], "positive": cells.to_pylist()},
        features=Features({name: dataset.features["positive"] for name in ("anchor", "positive")}),
    )
    encoded[0].embeddings[:] = np.roll(encoded[1].embeddings, 1, axis=0)  # everybody's positive is far
    mined = mined_of(encoded, num_negatives=20)
    findings = write_report(tmp_path / "report.html", dataset, encoded, mined, near_duplicate=-1)
    assert all(len(suspects.worst) == 9 for suspects in findings.suspects.values())
    assert len(findings.gallery) >= 4 and len(read(tmp_path / "report.html").images) > 300
    assert (tmp_path / "report.html").stat().st_size < 2.5e6
    assert "Kept: 15 of 20" in (tmp_path / "report.html").read_text("utf8")


def test_cells_are_shown_as_what_they_are_and_what_is_gone_is_said(tmp_path):
    assert show_cell("a  text\nof two lines") == show_cell("a text of two lines")
    assert shorten("word " * 100).endswith("…") and len(shorten("word " * 100)) <= 180
    gone = show_cell({"image": {"path": str(tmp_path / "gone.png"), "bytes": None}, "text": "what"})
    assert gone.pictures == () and gone.text == "what" and gone.notes == ("a picture that cannot be opened",)
    assert show_cell({"image": {"path": "https://example.org/a.png", "bytes": None}}).pictures == ()
    frames = [Image.new("RGB", (30, 30), colour) for colour in ("red", "lime", "blue")]
    video = show_cell({"video": frames, "text": None})
    shown = Image.open(io.BytesIO(base64.b64decode(video.pictures[0].split(",")[1])))
    assert shown.getpixel((15, 15))[1] > 200 and video.notes == ("one frame of a video",)
    assert show_cell({"video": str(tmp_path / "gone.mp4"), "image": None, "text": None}).notes[0].startswith("a video")
    assert set(VIDEO_CELL_FEATURE) == {"image", "video", "text"}


def test_suspects_are_the_pairs_that_were_planted():
    rng = np.random.default_rng(0)
    anchors, documents = rng.standard_normal((2, 40, 16)).astype(np.float32)
    documents[7] = documents[3] + 1e-4  # nearly the same document
    anchors[11] = anchors[3] + 1e-4  # and nearly the same question
    anchors[12] = documents[5]  # whose own positive is another
    from saha_st.mining.clusters import ClusterAssignment, ClusterCounts

    clusters = [np.arange(start, 40, 2) for start in range(2)]
    counts = ClusterCounts(40, 2, 0, 40, 0, 0, 0, 0, 0, {20: 2})
    statistics = {"settings": {"builder": "communities"}, "clusters": 2}
    arrays = (anchors, documents, np.arange(40))
    clusters[0] = np.append(clusters[0], 5)
    findings = examine_clusters(*arrays, ClusterAssignment(clusters, counts), statistics, near_duplicate=0.99)
    pairs = findings.pairs

    def rows(name: str) -> tuple[int, int]:
        at = findings.suspects[name].worst[0]
        return int(pairs.rows[pairs.member[at]]), int(pairs.rows[pairs.mate[at]])

    assert rows("near_duplicates") == (3, 7) and findings.suspects["near_duplicates"].count == 2
    assert rows("nearest_owners") == (3, 11) and findings.suspects["nearest_owners"].count == 2
    assert rows("above_own_positive") == (12, 5)
