"""The files beside the weights: fit to publish, readable again, and refused in plain words when they are not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from saha_st import SaHaModelCardData, load_embedder
from saha_st.card import draw_mining, publishable_recipe, render_card
from saha_st.card.recipe import hub_datasets
from saha_st.card.sidecars import Sidecars
from saha_st.card.tables import mining_table
from saha_st.training import RunConfig

WEIGHTS = Path(__file__).parents[2] / "saha_st" / "quickstart" / "saha-tiny"


def config(tmp_path: Path) -> RunConfig:
    (tmp_path / "owner" / "pairs").mkdir(parents=True)
    return RunConfig.from_dict(
        {
            "model": str(tmp_path / "models" / "Qwen2-VL"),
            "data": [
                {"path": str(tmp_path / "secret-project" / "pairs.jsonl"), "image_root": str(tmp_path / "pictures")},
                {"path": "owner/pairs"},
                {"path": "TIGER-Lab/MMEB-train", "format": "mmeb", "subset": ["A", "B"]},
            ],
            "output_dir": f"{tmp_path}/runs/saha-2b/",
            "prompt": {"system": "/absolute, it seems", "query_suffix": None},
            "model_kwargs": {"dtype": "bfloat16", "token": "hf_secret", "cache_dir": "/cache"},
            "mining": {"cache_folder": "/cache"},
            "training": {"hub_token": "hf_secret", "deepspeed": "~/zero.json", "max_steps": 3, "logging_dir": "logs"},
        }
    )


def test_a_published_recipe_names_nothing_of_the_machine_and_reads_as_a_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = publishable_recipe(config(tmp_path).to_dict())
    Sidecars(recipe).write(tmp_path)
    text = (tmp_path / "recipe.yaml").read_text()
    assert not [word for word in (str(tmp_path), "secret", "cache", "~", "logs") if word in text]
    read = RunConfig.from_file(tmp_path / "recipe.yaml")
    assert (read.model, read.output_dir) == ("Qwen2-VL", "saha-2b")
    assert [source.path for source in read.data] == ["pairs.jsonl", "pairs", "TIGER-Lab/MMEB-train"]
    assert (read.data[0].image_root, read.training) == ("pictures", {"deepspeed": "zero.json", "max_steps": 3})
    assert read.prompt.system == "/absolute, it seems" and read.model_kwargs == {"dtype": "bfloat16"}
    # A folder here that looks like a Hub id is none.
    assert hub_datasets(recipe) == ["TIGER-Lab/MMEB-train"]


@pytest.mark.parametrize("name", ["qwen2-vl-2b-mmeb", "qwen2-vl-7b-mmeb"])
def test_the_papers_recipes_are_published_as_they_are(name):
    values = RunConfig.from_file(name).to_dict()
    recipe = publishable_recipe(values)
    assert RunConfig.from_dict(recipe) == RunConfig.from_dict(values)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("recipe.yaml", "a: [", r"recipe\.yaml cannot be read"),
        ("recipe.yaml", "- a list", r"recipe\.yaml has no model, data"),
        ("recipe.yaml", "model: m", r"recipe\.yaml has no data"),
        ("mining.json", "{", r"mining\.json cannot be read"),
        ("mining.json", '{"A": {"rows": 3}}', r"mining\.json has no clusters, cluster_sizes of 'A'"),
        ("mining.json", "[]", r"mining\.json holds no mapping"),
        ("results/reports/x.json", "{}", r"x\.json has no benchmark"),
    ],
)
def test_a_broken_file_is_named_and_does_not_keep_a_model_from_loading(tmp_path, caplog, name, text, message):
    folder = shutil.copytree(WEIGHTS, tmp_path / "model")
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=rf"(?s){message}.*Restore it, or delete it"):
        SaHaModelCardData.of_folder(folder)
    load_embedder(str(folder), device="cpu")
    assert "cannot be read: " in caplog.text


def test_what_is_written_is_read_back(tmp_path):
    found = Sidecars.read(WEIGHTS)
    assert found.recipe and found.mining and found.reports
    found.write(tmp_path)
    assert Sidecars.read(tmp_path) == found
    assert Sidecars.read(tmp_path / "empty") == Sidecars(reports=[])
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text()) == found.recipe


def mined(sizes: dict[str, int], **more) -> dict:
    return {"rows": 1500, "clusters": 3, "cluster_sizes": sizes, **more}


def test_the_figure_is_drawn_and_is_small(tmp_path):
    pytest.importorskip("matplotlib")
    assert not draw_mining({}, tmp_path / "none.png")
    many = {f"dataset {i}": mined({str(size): 10 for size in range(2, 18)}, owners_filtered=i) for i in range(20)}
    for mining in (json.loads((WEIGHTS / "mining.json").read_text()), many, {"one": mined({"2": 1})}):
        path = tmp_path / "assets" / "mining.png"
        assert draw_mining(mining, path)
        with Image.open(path) as figure:
            assert figure.format == "PNG" and figure.width <= 1000
            assert len(set(figure.convert("L").resize((100, 100)).tobytes())) > 10  # something is drawn
        assert path.stat().st_size < 100_000


def test_the_figure_has_a_panel_of_the_owner_filter_only_where_there_was_one(tmp_path, monkeypatch):
    figure = pytest.importorskip("matplotlib.figure")
    drawn = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, *args, **kwargs: drawn.append(self))
    off = mined({"2": 1}, owners_filtered=0, settings={"owner_filter": False})
    for mining in ({"A": off}, {"A": off, "B": mined({"2": 1}, owners_filtered=0)}):
        draw_mining(mining, tmp_path / "mining.png")
    assert [len(each.axes) for each in drawn] == [1, 2]
    assert [text.get_text() for text in drawn[1].axes[1].texts] == ["off", ""]


def test_where_no_filter_was_on_the_card_does_not_explain_it():
    off = mined({"2": 1}, owners_filtered=0, settings={"owner_filter": False})
    model, figure = load_embedder("saha-tiny", device="cpu"), {"mining_figure": "assets/mining.png"}
    cards = [render_card(model, SaHaModelCardData(mining={"A": each}, **figure)) for each in (mined({"2": 1}), off)]
    assert ["the owner filter keeps" in card for card in cards] == [True, False]
    assert "![Clusters by size](assets/mining.png)" in cards[1]


def test_of_communities_the_card_says_what_was_kept_apart():
    communities = mined({"4": 9}, pairs_kept_apart=1234, settings={"builder": "communities", "owner_filter": True})
    data = SaHaModelCardData(mining={"A": communities}, mining_figure="assets/mining.png")
    card = render_card(load_embedder("saha-tiny", device="cpu"), data)
    assert "Clusters are communities" in card and "A pair is in one cluster at most.\n\n![Clusters" in card
    assert "![Clusters by size, and pairs kept apart by the owner filter]" in card and "1,234" in card
    assert "may be in two clusters" not in card


def test_without_matplotlib_the_card_has_the_table_only(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    model = load_embedder("saha-tiny", device="cpu")
    model.save_pretrained(str(tmp_path))
    card = (tmp_path / "README.md").read_text()
    assert "assets/" not in card and not (tmp_path / "assets").exists() and "| Crops | 500 |" in card


def test_the_table_says_where_the_owner_filter_was_off():
    table = mining_table(
        {"A": mined({"2": 1, "16": 2}, owners_filtered=7), "B": mined({}, settings={"owner_filter": False})}
    )
    assert table.splitlines()[2:] == ["| A | 1,500 | 3 | 2–16 | 7 | – |", "| B | 1,500 | 3 | – | off | – |"]
