"""The app as visitors meet it: launched in this process, driven through its API."""

from __future__ import annotations

import json
import logging
import socket
import urllib.error
import urllib.request
from dataclasses import fields
from pathlib import Path

import gradio
import pytest
import yaml
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from saha_st.cli import build_parser, main
from saha_st.demo.app import launch_options, lay_out
from saha_st.demo.errors import SOMETHING_WENT_WRONG
from saha_st.demo.gallery import open_gallery
from saha_st.demo.settings import DemoSettings

SPACE = Path(__file__).parents[2] / "spaces_demo"
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


@pytest.fixture(scope="module")
def url(engine, tmp_path_factory):
    demo = lay_out(engine, str(tmp_path_factory.mktemp("examples")))
    _, url, _ = demo.launch(**launch_options(), prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield url
    demo.close()


@pytest.fixture(scope="module")
def client(url):
    return Client(url, verbose=False)


@pytest.fixture
def picture(engine, tmp_path):
    engine.gallery.pictures[3].save(tmp_path / "query.png")
    return handle_file(tmp_path / "query.png")


def post(url, data, **headers):
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json", **headers})
    return urllib.request.urlopen(request, timeout=20)


def test_search_by_text_picture_and_both(client, engine, picture):
    text = engine.gallery.texts[0]
    found = client.predict(text=text, image=None, find="pictures", count=3, api_name="/search")
    assert [hit["rank"] for hit in found] == [1, 2, 3]
    assert found[0]["score"] > found[2]["score"]
    assert found[0]["picture"] == engine.gallery.names[found[0]["index"]]
    assert client.predict(text="", image=picture, count=1, api_name="/search")[0]["index"] == 3
    assert len(client.predict(text="on grass", image=picture, count=2, api_name="/search")) == 2
    texts = client.predict(text="", image=picture, find="texts", count=2, api_name="/search")
    assert texts[0]["text"] in engine.gallery.texts


def test_the_hat_answers_for_each_level(client):
    levels = client.predict(text="a red circle", image=None, count=2, api_name="/hat")
    assert [level["level"] for level in levels] == ["no prompt", "system level", "both levels"]
    assert all(level["modality_gap"] > 0 and len(level["results"]) == 2 for level in levels)
    assert levels[2]["prompt"].count("in one word") == 3


def test_the_detective_explains(client):
    case = client.predict(anchor=0, num_negatives=3, pool_multiplier=2, api_name="/detective")
    mates = {candidate["owner"] for candidate in case["candidates"] if candidate["fate"] == "mate"}
    assert mates == set(case["cluster"][1:])
    assert len(case["similarities"]) == len(case["cluster"])


def test_the_api_is_documented_and_the_pages_events_are_private(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == {"/search", "/hat", "/detective"}
    assert "Search the gallery by text" in endpoints["/search"]["description"]
    names = [parameter["parameter_name"] for parameter in endpoints["/search"]["parameters"]]
    assert names == ["text", "image", "find", "count"]
    assert not client.view_api(return_format="dict")["unnamed_endpoints"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": "", "image": None}, "Type a text or add a picture"),
        ({"text": "x" * 501, "image": None}, "501 characters"),
        ({"text": "a", "image": None, "count": 99}, "between 1 and 24"),
        ({"text": "a", "image": None, "find": "secrets"}, "'pictures' or 'texts'"),
        ({"text": "a", "image": {"path": "/etc/passwd"}}, "not uploaded here"),
    ],
)
def test_what_visitors_can_put_right_is_told(client, arguments, message):
    with pytest.raises(AppError, match=message):
        client.predict(**arguments, api_name="/search")


def test_what_they_cannot_is_logged_and_not_told(client, engine, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("secret /path/of/this/machine")

    monkeypatch.setattr(engine, "embed", broken)
    with caplog.at_level(logging.ERROR), pytest.raises(AppError) as error:
        client.predict(text="a", image=None, api_name="/search")
    assert str(error.value) == SOMETHING_WENT_WRONG
    assert "secret /path" in caplog.text


@pytest.mark.parametrize(
    "place", ["https://example.com/a.png", "http://127.0.0.1:9/a.png", "data:image/png;base64,AA"]
)
def test_addresses_in_place_of_uploads_are_refused_before_gradio_sees_them(url, place):
    file = {"path": place, "meta": {"_type": "gradio.FileData"}}
    for route in ("gradio_api/call/search", "gradio_api/run/search", "gradio_api/queue/join"):
        with pytest.raises(urllib.error.HTTPError) as error:
            post(url + route, {"data": ["", file, "pictures", 3], "fn_index": 0, "session_hash": "x"})
        assert error.value.code == 403


def test_nothing_is_served_but_uploads(url, engine, picture):
    for path in ("/etc/passwd", str(Path.cwd() / "pyproject.toml"), "https://example.com/", "http:/example.com"):
        for route in ("gradio_api/file=", "gradio_api/file/"):
            with pytest.raises(urllib.error.HTTPError) as error:
                urllib.request.urlopen(url + route + path, timeout=20)
            assert error.value.code in (403, 404)
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(url + "gradio_api/proxy=https://x.hf.space/", timeout=20)
    assert error.value.code == 403


def test_requests_without_end_are_refused(url):
    with pytest.raises(urllib.error.HTTPError) as error:
        post(url + "gradio_api/call/search", b" " * 300_000)
    assert error.value.code == 413


def test_the_page_names_no_fonts_of_others_and_reports_to_nobody(url):
    page = urllib.request.urlopen(url, timeout=20).read().decode()
    config = json.load(urllib.request.urlopen(url + "config", timeout=20))
    assert "fonts.googleapis.com" not in page.split("<body", 1)[0]
    assert config["analytics_enabled"] is False


def front_matter():
    text = (SPACE / "README.md").read_text(encoding="utf8")
    return yaml.safe_load(text.split("---")[1])


def test_the_front_matter_of_the_space_is_valid():
    card = front_matter()
    assert card["sdk"] == "gradio"
    assert card["sdk_version"].split(".")[:2] == gradio.__version__.split(".")[:2]
    assert card["python_version"] == "3.12"
    assert len(card["short_description"]) <= 60
    assert {card["colorFrom"], card["colorTo"]} <= COLOURS
    assert (SPACE / card["app_file"]).exists()


def test_the_space_requires_what_the_package_does_and_pins_neither_torch_nor_gradio():
    import tomllib

    wanted = tomllib.loads((SPACE.parent / "pyproject.toml").read_text(encoding="utf8"))["project"]["dependencies"]
    lines = (SPACE / "requirements.txt").read_text(encoding="utf8").splitlines()
    required = {line for line in lines if not line.startswith("#")}
    assert "torch" in required
    assert required == {line for line in wanted if not line.startswith("torch>")} | {"torch"}


def test_every_setting_is_a_flag_and_documented():
    args = build_parser().parse_args(["demo"])
    readme = (SPACE / "README.md").read_text(encoding="utf8")
    for field in fields(DemoSettings):
        assert getattr(args, field.name) == field.default
        assert f"SAHA_DEMO_{field.name.upper()}" in readme


def test_without_gradio_the_command_says_what_to_install(monkeypatch, capsys):
    import saha_st.demo
    from saha_st.cli import main

    monkeypatch.setattr(saha_st.demo, "find_spec", lambda name: None)
    assert main(["demo"]) == 2
    assert 'pip install "saha-st[demo]"' in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["model", "gallery"])
def test_a_bare_name_that_is_nothing_here_is_refused_before_anything_is_imported(flag, capsys, monkeypatch):
    monkeypatch.setattr("saha_st.demo.__getattr__", lambda name: {"DemoSettings": DemoSettings}[name], raising=True)
    assert main(["demo", f"--{flag}", "nowhere"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"--{flag} (or SAHA_DEMO_{flag.upper()}): there is no 'nowhere' here" in error
    assert "'org/name'" in error and ("saha-tiny" if flag == "model" else "scenes") in error


def test_a_gallery_that_the_hub_does_not_have_is_named_by_its_flag(monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("source: there is no file or folder 'org/nowhere' here")

    monkeypatch.setattr("saha_st.data.inputs.load_inputs", unreachable)
    with pytest.raises(OSError, match="^--gallery 'org/nowhere' cannot be opened: there is no file"):
        open_gallery(DemoSettings(gallery="org/nowhere"))


def test_a_port_that_is_taken_is_said_before_the_model_is_loaded(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["demo", "--port", str(port), "--model", "org/nowhere"]) == 2
    error = capsys.readouterr().err
    assert f"--port {port} of 127.0.0.1 is in use by another program. Choose another, or leave --port out" in error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "99999"], "between 1 and 65535, got 99999. Leave it out for the first free one"),
        (["--port", "0"], "between 1 and 65535, got 0. Leave it out"),
        (
            ["--port", "7999", "--host", "203.0.113.1"],
            "7999 of 203.0.113.1 cannot be listened on (Cannot assign",
        ),
    ],
)
def test_a_place_where_nothing_can_listen_is_explained(flags, message, capsys):
    assert main(["demo", *flags]) == 2
    assert message in capsys.readouterr().err
