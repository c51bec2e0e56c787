"""The scripts that search a folder of pictures: what they find is what the model finds, and nothing else is let in."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from saha_st.cli import main
from saha_st.data.scenes import draw, sample_scene
from saha_st.modules import load_embedder
from saha_st.modules.sources import resolve_model

EXAMPLES = Path(__file__).parents[2] / "examples"
STORES = {"faiss": "faiss_search.py", "lancedb": "lancedb_search.py"}


@pytest.fixture(scope="session")
def _folder(tmp_path_factory):
    """Six pictures and their vectors, and what else the tests add: made once."""
    folder = tmp_path_factory.mktemp("stores")
    (folder / "photos" / "more").mkdir(parents=True)
    for seed in range(6):
        name = f"more/{seed}.png" if seed > 3 else f"{seed}.png"
        draw(sample_scene(Random(seed)), seed=seed).save(folder / "photos" / name)
    changed = shutil.copytree(folder / "photos", folder / "changed")
    (changed / "0.png").unlink()
    shutil.copy(changed / "1.png", changed / "2.png")
    draw(sample_scene(Random(9)), seed=9).save(changed / "9.png")
    encode(folder, "photos", "changed")
    return folder


@pytest.fixture
def folder(_folder, tmp_path, monkeypatch):
    copied = shutil.copytree(_folder, tmp_path / "folder")
    monkeypatch.chdir(copied)
    return copied


@pytest.fixture(scope="session")
def model():
    return load_embedder("saha-tiny", device="cpu")


@pytest.fixture(params=STORES)
def store(request, monkeypatch, capsys):
    """Runs the script of a store as if it were called, and returns what it printed."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [STORES[request.param], *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path(str(EXAMPLES / STORES[request.param]), run_name="__main__")
        return capsys.readouterr().out

    return run


def encode(folder: Path, *names: str, model: str = "saha-tiny", output: str | None = None, options=()) -> None:
    for name in names:
        files = [str(folder / name), "--output", str(folder / f"{output or name}.safetensors")]
        assert main(["encode", *files, "--model", model, "--quiet", *options]) == 0


def found(printed: str) -> dict[str, float]:
    """Cosines by id, in the order in which they were printed."""
    return {name: float(cosine) for cosine, name in (line.split("  ") for line in printed.splitlines())}


def expected(model, folder: Path, query: object, *, pictures: str = "photos") -> dict[str, float]:
    files = sorted(path for path in (folder / pictures).rglob("*.png"))
    documents = model.encode_document([Image.open(path) for path in files])
    cosines = model.similarity(model.encode_query([query]), documents)[0].tolist()
    ids = [path.relative_to(folder / pictures).as_posix() for path in files]
    return dict(sorted(zip(ids, cosines, strict=True), key=lambda pair: -pair[1]))


def assert_equal(here: dict[str, float], there: dict[str, float]) -> None:
    assert list(here) == list(there) and here == pytest.approx(there, abs=1e-4)


def test_text_picture_and_both_find_what_the_model_finds(store, folder, model):
    assert store("add", "index", "photos.safetensors") == "6 added, 0 replaced, 0 removed: 6 pictures in index.\n"
    by_text = found(store("search", "index", "a blue diamond"))
    assert len(by_text) == 5
    assert_equal(by_text, dict(list(expected(model, folder, "a blue diamond").items())[:5]))
    picture = Image.open("photos/1.png")
    by_picture = found(store("search", "index", "--image", "photos/1.png", "--top_k", 9))
    assert_equal(by_picture, expected(model, folder, {"image": picture}))
    both = found(store("search", "index", "what is left of it?", "--image", "photos/1.png", "--top_k", 9))
    assert_equal(both, expected(model, folder, {"image": picture, "text": "what is left of it?"}))
    assert by_picture != both


def test_what_is_known_stays_what_changed_is_replaced_and_what_is_gone_is_dropped_when_asked(store, folder, model):
    store("add", "index", "photos.safetensors")
    assert store("add", "index", "photos.safetensors").startswith("0 added, 0 replaced, 0 removed: 6 pictures")
    assert store("add", "index", "changed.safetensors").startswith("1 added, 1 replaced, 0 removed: 7 pictures")
    assert "0.png" in found(store("search", "index", "a star", "--top_k", 9))
    pruned = store("add", "index", "changed.safetensors", "--prune")
    assert pruned.startswith("0 added, 0 replaced, 1 removed: 6 pictures")
    here, there = found(store("search", "index", "a star")), expected(model, folder, "a star", pictures="changed")
    assert here == pytest.approx({name: there[name] for name in here}, abs=1e-4)
    assert here["1.png"] == here["2.png"] and "0.png" not in here


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"model": "saha-tiny-base"}, "the weights, or their dtype, are others"),
        ({"options": ("--image_tokens", "4", "9")}, r"image_tokens the model's own, then \[4, 9\]"),
        ({"options": ("--task", "query")}, "encoded as document, then as query"),
    ],
    ids=["model", "setting", "task"],
)
def test_vectors_of_another_model_setting_or_task_are_not_added(store, folder, options, difference):
    store("add", "index", "photos.safetensors")
    before = store("search", "index", "a star")
    encode(folder, "changed", output="other", **options)
    with pytest.raises(SystemExit, match=rf"'index' holds vectors of 'saha-tiny' .*: {difference}\. Encode the pict"):
        store("add", "index", "other.safetensors", "--prune")
    assert store("search", "index", "a star") == before


def test_a_search_with_another_model_or_with_changed_weights_is_refused(store, folder):
    mine = Path(shutil.copytree(resolve_model("saha-tiny"), folder / "mine"))
    encode(folder, "photos", model="./mine", output="of-mine")
    store("add", "index", "of-mine.safetensors")
    before = store("search", "index", "a star")
    moved = mine.rename("moved")
    with pytest.raises(SystemExit, match=r"no model folder './mine'.*'index' was made with './mine'.*\(--model\)"):
        store("search", "index", "a star")
    assert store("search", "index", "a star", "--model", "./moved") == before
    message = r"'index' holds vectors of './mine' .* these are of '{}' .*the weights, .*Search with the model"
    with pytest.raises(SystemExit, match=message.format("saha-tiny-base")):
        store("search", "index", "a star", "--model", "saha-tiny-base")
    weights = load_file(moved / "model.safetensors")
    weights[max(weights)] *= 1.01
    save_file(weights, moved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SystemExit, match=message.format("./moved")):
        store("search", "index", "a star", "--model", "./moved")


def test_a_search_takes_the_settings_that_the_pictures_were_encoded_with(store, folder):
    encode(folder, "photos", output="small", options=("--image_tokens", "4", "9", "--dtype", "bfloat16"))
    store("add", "index", "small.safetensors")
    assert found(store("search", "index", "--image", "photos/1.png"))["1.png"] > 0.9


def test_a_picture_is_turned_upright_as_in_the_folder(store, folder):
    upright = Image.open("photos/1.png")
    exif = Image.Exif()
    exif[274] = 6  # which says that it is to be turned by 90 degrees
    upright.rotate(90, expand=True).save("lying.png", exif=exif)
    store("add", "index", "photos.safetensors")
    by_upright = store("search", "index", "--image", "photos/1.png")
    assert store("search", "index", "--image", "lying.png") == by_upright
    upright.rotate(90, expand=True).save("lying.png")
    assert store("search", "index", "--image", "lying.png") != by_upright


def test_what_is_not_there_or_something_else_is_said(store, folder):
    with pytest.raises(SystemExit, match=r"no (index|database) 'index'\. Make it: .* add index VECTORS"):
        store("search", "index", "a star")
    with pytest.raises(SystemExit, match=r"no file 'missing.parquet'\. Write it with `saha-st encode`"):
        store("add", "index", "missing.parquet")
    store("add", "index", "photos.safetensors")
    with pytest.raises(SystemExit, match="missing.png"):
        store("search", "index", "--image", "missing.png")
    with pytest.raises(SystemExit) as stopped:
        store("search", "index")
    assert stopped.value.code == 2


def test_the_scripts_explain_themselves(store, capsys):
    with pytest.raises(SystemExit) as stopped:
        store("--help")
    assert stopped.value.code == 0 and "_search.py add photos." in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("script", STORES.values())
def test_the_scripts_run_by_themselves(script, folder):
    run = [sys.executable, str(EXAMPLES / script)]
    subprocess.run([*run, "add", "index", "photos.safetensors"], check=True)
    finished = subprocess.run([*run, "search", "index", "--image", "photos/1.png"], capture_output=True, text=True)
    assert list(found(finished.stdout))[0] == "1.png" and finished.returncode == 0
    refused = [*run, "search", "index", "a star", "--model", "saha-tiny-base"]
    finished = subprocess.run(refused, capture_output=True, text=True)
    assert finished.returncode == 1 and "They cannot be compared" in finished.stderr
    assert "Traceback" not in finished.stderr
