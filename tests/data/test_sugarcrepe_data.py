"""SugarCrepe and SugarCrepe++ as they are in the authors' files and on the Hub, and what is said when they are not."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest
from caption_files import (
    ROWS,
    rows_of,
    write_captions,
    write_file,
    write_hub_repo,
    write_images,
    write_pp_file,
    write_pp_hub_repo,
)
from PIL import Image as PIL

from saha_st.data import sugarcrepe
from saha_st.data.sugarcrepe import load_sugarcrepe, load_sugarcrepe_pp


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_captions(tmp_path)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The Hub: repositories are folders, and every one has one commit; what is asked of it is written down."""
    asked = SimpleNamespace(resolved=[], loaded=[], folder=tmp_path / "hub")

    def resolve(repo: str, *, repo_type: str, revision: str | None, cache_dir: str | None):
        asked.resolved.append((repo, repo_type, revision))
        return SimpleNamespace(resolved=f"commit-of-{repo.rsplit('/', 1)[-1]}")

    def load(repo: str, config: str | None = None, *, revision: str, cache_dir: str | None = None):
        asked.loaded.append((repo, config, revision))
        return datasets.load_dataset(str(asked.folder / repo), config, cache_dir=str(tmp_path / "cache"))

    def configs(repo: str, *, revision: str):
        return datasets.get_dataset_config_names(str(asked.folder / repo))

    monkeypatch.setattr(huggingface_hub, "resolve_revision", resolve)
    monkeypatch.setattr(sugarcrepe, "load_dataset", load)
    monkeypatch.setattr(sugarcrepe, "get_dataset_config_names", configs)
    return asked


def texts(rows: datasets.Dataset) -> dict[str, list[str]]:
    return rows.remove_columns("image").to_dict()


def test_the_authors_files_are_read_to_the_letter_with_their_images(root: Path):
    rows, expected = load_sugarcrepe("swap_att", root / "crepe"), rows_of("swap_att")
    assert rows.column_names == ["image", "caption", "negative_caption"] and len(rows) == ROWS
    assert texts(rows) == {name: [row[name] for row in expected] for name in ("caption", "negative_caption")}
    path = root / "crepe" / "data" / "coco" / "images" / "val2017" / expected[5]["filename"]
    assert rows[5]["image"].tobytes() == PIL.open(path).tobytes() != rows[0]["image"].tobytes()
    rows = load_sugarcrepe_pp("swap_att", root / "pp")
    assert rows.column_names == ["image", "caption", "caption2", "negative_caption"] and len(rows) == ROWS
    assert rows["caption2"][:] == [row["caption2"] for row in expected]
    assert load_sugarcrepe_pp("swap_att", root / "pp", with_images=False).column_names == rows.column_names[1:]


def test_a_named_image_root_wins_over_what_is_found(root: Path, tmp_path: Path):
    other = write_images(tmp_path / "other")
    (other / rows_of("add_obj")[0]["filename"]).unlink()
    with pytest.raises(FileNotFoundError, match="add_obj'?: Row 0.*other.*COCO val2017.*image_root="):
        load_sugarcrepe("add_obj", root / "crepe", image_root=other)
    write_images(other)
    assert (
        str(other)
        in load_sugarcrepe("add_obj", root / "crepe", image_root=other).cast_column(
            "image", datasets.Image(decode=False)
        )[0]["image"]["path"]
    )
    with pytest.raises(FileNotFoundError, match="image_root: .*nowhere' is no folder"):
        load_sugarcrepe("add_obj", root / "crepe", image_root=tmp_path / "nowhere")


def test_a_missing_image_is_named_with_the_number_of_its_row_in_the_file(root: Path):
    folder = root / "crepe" / "data" / "coco" / "images" / "val2017"
    (folder / rows_of("add_att")[6]["filename"]).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"add_att.*Row 12, column 'filename'.*000000000003\.png.*COCO val2017"
    ):
        load_sugarcrepe("add_att", root / "crepe")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"0": {"filename": "a.jpg",', r"add_att.json, line 1: not JSON"),
        ("{}", "add_att.json has no rows"),
        ('"a caption"', "expected a list of rows, or rows by number, found str"),
        ('{"7": "a caption"}', "row 7: expected an object with .*'negative_caption'.*found str"),
        (
            '{"7": {"filename": "a.jpg", "caption": "a cat"}}',
            r"row 7 lacks \['negative_caption'\]; it has \['caption'",
        ),
        ('{"7": {"filename": "a.jpg", "caption": " ", "negative_caption": "b"}}', "row 7: 'caption' must be a text"),
        ('{"7": {"filename": "a.jpg", "caption": "a", "negative_caption": null}}', "'negative_caption' .*found None"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_files_that_are_none_of_the_benchmark_are_refused(root: Path, content: str | bytes, message: str):
    file = root / "crepe" / "data" / "add_att.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        load_sugarcrepe("add_att", root / "crepe")


def test_the_two_benchmarks_are_not_taken_for_each_other(root: Path):
    with pytest.raises(ValueError, match=r"swap_obj.json is of SugarCrepe\+\+ .*not of SugarCrepe"):
        load_sugarcrepe("swap_obj", root / "pp")
    with pytest.raises(ValueError, match=r"row 0 lacks \['caption2'\]"):
        load_sugarcrepe_pp("swap_obj", root / "crepe")


def test_what_is_not_there_is_named_with_the_way_out(root: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="SugarCrepe has no subset 'swap_attr'. Did you mean 'swap_att'"):
        load_sugarcrepe("swap_attr", root / "crepe")
    with pytest.raises(ValueError, match=r"SugarCrepe\+\+ has no subset 'add_obj'"):
        load_sugarcrepe_pp("add_obj", root / "pp")
    with pytest.raises(FileNotFoundError, match="neither a folder nor a dataset of the Hub"):
        load_sugarcrepe("add_obj", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"neither add_obj.json nor data/add_obj.json.*subsets="):
        load_sugarcrepe("add_obj", root / "pp")


@pytest.mark.parametrize("swapped", [False, True])
def test_the_label_decides_which_caption_is_true_on_the_hub(hub, root: Path, swapped: bool):
    expected = rows_of("add_obj")
    repo = hub.folder / "HuggingFaceM4" / "SugarCrepe_add_obj"
    images = root / "crepe" / "data" / "coco" / "images" / "val2017"
    write_hub_repo(repo, expected, images, swapped=swapped)
    rows = load_sugarcrepe("add_obj", revision="main")
    assert hub.resolved == [("HuggingFaceM4/SugarCrepe_add_obj", "dataset", "main")]
    assert hub.loaded == [("HuggingFaceM4/SugarCrepe_add_obj", None, "commit-of-SugarCrepe_add_obj")]
    local = load_sugarcrepe("add_obj", root / "crepe")
    assert rows.column_names == local.column_names and texts(rows) == texts(local)
    assert [image.tobytes() for image in rows["image"]] == [image.tobytes() for image in local["image"]]
    with pytest.raises(ValueError, match="holds its images itself; leave image_root out"):
        load_sugarcrepe("add_obj", image_root=images)


def test_configurations_of_the_hub_have_other_names_and_no_images(hub, root: Path):
    write_pp_hub_repo(hub.folder / "Aman-J" / "SugarCrepe_pp")
    with pytest.raises(ValueError, match="Aman-J/SugarCrepe_pp holds file names, but no images.*COCO val2017"):
        load_sugarcrepe_pp("swap_att")
    assert not hub.resolved and not hub.loaded
    rows = load_sugarcrepe_pp("swap_att", image_root=root / "pp" / "val2017")
    assert hub.loaded == [("Aman-J/SugarCrepe_pp", "swap_atribute", "commit-of-SugarCrepe_pp")]
    local = load_sugarcrepe_pp("swap_att", root / "pp")
    assert texts(rows) == texts(local) and rows.features == local.features
    assert load_sugarcrepe_pp("replace_rel", with_images=False).num_rows == ROWS


def test_other_layouts_of_the_hub_are_refused_with_what_was_found(hub, root: Path, tmp_path: Path):
    def write(repo: str, columns: dict[str, list[str]], split: str = "test") -> None:
        (hub.folder / repo / "data").mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(columns).to_parquet(hub.folder / repo / "data" / f"{split}-0.parquet")

    write("me/c_swap_obj", {"caption": ["a"], "wrong": ["b"]})
    with pytest.raises(ValueError, match=r"me/c_swap_obj lacks the columns \['negative_caption'\]; it has .*'wrong'"):
        load_sugarcrepe("swap_obj", "me/c_{subset}")
    write("me/c_swap_att", {"caption": ["a"], "negative_caption": ["b"], "url": ["c"]})
    with pytest.raises(ValueError, match="neither 'image' nor 'filename'; it has .*'url'"):
        load_sugarcrepe("swap_att", "me/c_{subset}")
    write("me/c_add_obj", {"caption": ["a", "b"], "negative_caption": ["b", ""], "filename": ["c", "c"]})
    with pytest.raises(ValueError, match="me/c_add_obj, row 1: 'negative_caption' must be a text"):
        load_sugarcrepe("add_obj", "me/c_{subset}")
    write("me/c_add_att", {"caption": ["a"], "negative_caption": ["b"], "filename": ["c"]})
    with pytest.raises(ValueError, match="image_root: me/.*holds no images; its columns are .*'filename'"):
        load_sugarcrepe("add_att", "me/c_{subset}")
    write("me/c_add_att", {"caption": ["a"], "negative_caption": ["b"], "filename": ["c"]}, split="train")
    with pytest.raises(ValueError, match=r"expected one split, found \['test', 'train'\]|\['train', 'test'\]"):
        load_sugarcrepe("add_att", "me/c_{subset}")
    write("me/all", {"caption": ["a"], "negative_caption": ["b"], "filename": ["c"]})
    with pytest.raises(ValueError, match=r"no configuration for the subset 'add_att'.*found \['default'\]"):
        load_sugarcrepe("add_att", "me/all")


def test_labels_that_name_neither_caption_are_refused(hub, root: Path):
    repo = write_hub_repo(hub.folder / "me" / "add_obj", rows_of("add_obj"), root / "pp" / "val2017")
    file = str(repo / "data" / "test-00000-of-00001.parquet")
    stored = datasets.Dataset.from_parquet(file, cache_dir=str(hub.folder / "before"))
    label, row = stored.features["true_label"], stored[3]
    labels = stored["true_label"][:]
    labels[3] = next(number for number, name in enumerate(label.names) if name not in row["tested_labels"])
    stored.remove_columns("true_label").add_column("true_label", labels, feature=label).to_parquet(file)
    with pytest.raises(ValueError, match="me/add_obj, row 3: expected the true caption .* and one other"):
        load_sugarcrepe("add_obj", "me/{subset}")


def test_files_may_also_be_lists_or_lie_beside_the_images(tmp_path: Path):
    rows = rows_of("add_obj")
    for row in rows:
        del row["caption2"]
    write_pp_file(tmp_path / "add_obj.json", rows)
    write_images(tmp_path)
    assert load_sugarcrepe("add_obj", tmp_path)["caption"][:] == [row["caption"] for row in rows]
    write_file(tmp_path / "add_obj.json", rows)
    assert json.loads((tmp_path / "add_obj.json").read_text())["14"]["caption"] == rows[7]["caption"]
    assert load_sugarcrepe("add_obj", tmp_path)["caption"][:] == [row["caption"] for row in rows]
