"""Paths of a machine are found in what a file says; escapes, routes and everybody's cache are none."""

from __future__ import annotations

import json

import pytest
import yaml

from saha_st.hub.local_paths import paths_in

ROOTS = (
    "home root Users mnt media tmp var opt srv data workspace scratch work private Volumes "
    "content kaggle lustre gpfs nfs"
).split()
PATHS = [f"/{root}/ann/x" for root in ROOTS] + [
    "~/models/x",
    r"C:\Users\Ann",
    r"d:\new",
    r"\\server\share\x",
    "file:///x",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_found_as_a_value_and_as_a_key(path):
    for value in ({"model": "org/name", "data": [path]}, {"model": "org/name", path: 1}):
        assert list(paths_in(json.dumps(value, indent=1), ".json")) == [path]
        assert list(paths_in(json.dumps(value) + "\n\n", ".jsonl")) == [path]
        assert list(paths_in(yaml.safe_dump(value), ".yaml")) == [path]


PROSE = ["Trained on {}, for a day.", "`{}`", "--data={}", "({})", '"{}"', "dir:{}"]
IN_PROSE = [(path, prose) for path in PATHS for prose in PROSE if (path[0] != "\\" or prose != "dir:{}")]


@pytest.mark.parametrize(("path", "prose"), IN_PROSE)
def test_a_path_is_found_in_prose(path, prose):
    if path == r"d:\new":  # may be an escape there
        path = r"d:\new\Ann"
    assert paths_in("fine\n" + prose.format(path), ".md") == {path: 2}


@pytest.mark.parametrize("path", ["/large/team/x", "/nfs", "/scratch", "/data/", "/my data/x", "D:\\my data\\x"])
def test_a_value_that_is_a_path_as_a_whole_is_found_and_the_same_in_prose_is_not(path):
    assert list(paths_in(json.dumps({"a": path}), ".json")) == [path]
    assert list(paths_in(yaml.safe_dump({"a": [path]}), ".yml")) == [path]
    if path[0] == "/":
        assert not paths_in(f"Mount {path} there.", ".md")


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".json", '{"a": 1,\n"b": "text\\n\\n",\n\n"c": {"/home/ann/x": 1}}'),
        (".jsonl", '{"a": 1}\n\n{"b": 2}\n{"c": "in /home/ann/x"}\n'),
        (".yaml", "a: 1\nb:\n- 2\n- /home/ann/x\n"),
        (".yaml", "a: 1\n# 2\n\nb: 3  # was /home/ann/x\n"),
        (".yaml", "a: /home/ann/x: 2\n\n\n/home/ann/x"),  # does not parse
        (".json", "{'a': 1,\n\n\n/home/ann/x"),  # does not parse
        (".jinja", "{{ 'Q:\\n\\n' }}\n\n\n{{ 'A:\\n/home/ann/x' }}"),
        (".md", "\n\n\n/home/ann/x."),
    ],
)
def test_the_line_is_told(suffix, text):
    line = 1 if text.startswith("a: /home") else 4
    assert paths_in(text, suffix) == {"/home/ann/x": line}


def test_each_path_is_told_once_in_the_order_of_lines():
    text = "a:\n  deep:\n    deeper: /tmp/x\nb: /home/ann/x\nc: /tmp/x\nd: &e {x: /mnt/y}\nf: *e\n"
    assert paths_in(text, ".yaml") == {"/tmp/x": 3, "/home/ann/x": 4, "/mnt/y": 6}


@pytest.mark.parametrize(
    "text", [r"Q:\nfind the picture", r"A:\nyes", r"Q:\rx", r"A:\ttab", r"Q:\nHow many? A:\n", r"Answer:\nfind"]
)
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".yaml", ".jinja", ".md"])
def test_an_escape_is_no_drive(text, suffix):
    quoted = f'{{{{ "{text}" }}}}' if suffix == ".jinja" else f'{{"prompt": "{text}"}}'
    assert not paths_in(quoted, suffix)


def test_a_template_within_json_is_read_as_one():
    template = "{{- 'Q:\\nfind' + \"\\n\\nA:\\nyes\" }}{# C:\\Users\\ann #}"
    assert list(paths_in(json.dumps({"chat_template": template}), ".json")) == [r"C:\Users\ann"]


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".jinja"])
def test_escaped_backslashes_are_single_ones(suffix):
    assert list(paths_in('{"a": "C:\\\\new\\\\Ann"}', suffix)) == [r"C:\new\Ann"]


@pytest.mark.parametrize(
    "text",
    [
        "Files are kept in ~/.cache/huggingface.",
        "docker run -v ~/.cache/huggingface:/root/.cache/huggingface image",
        "docker run -v $PWD/data:/data -p 8080:80 image",
        "See ~/.cache/..., ~/.cache/torch/ and ~/.cache/huggingface/hub",
        "See https://example.org/home/page, s3://bucket/data/x, `org/name`, </head>, 1/2, and/or, ../data/x, ./tmp/x",
        r"POST /v1/embeddings, \nRepresent/text, \\begin{x}, a \\ b, \n\nRepresent",
        "'\\\\n\\\\nAnswer'",
        r"$a & b\\alpha\beta$",
        "profile:/path and a file:// without one",
    ],
)
def test_what_only_looks_like_a_path_is_left_alone(text):
    assert not paths_in(text, ".md")


def test_values_that_only_look_like_paths_are_left_alone():
    value = {"_name": "Qwen/Qwen2-VL-2B-Instruct", "route": "/v1", "url": "/v1/embeddings", "suffix": "text/image"}
    value |= {"cache": "~/.cache/huggingface", "root": "/", "pattern": r"\s+(?!\S)|\p{L}", "prompt": "Q: a / b"}
    assert not paths_in(json.dumps(value), ".json") and not paths_in(yaml.safe_dump(value), ".yaml")


def test_yaml_that_contains_itself_is_read_once():
    assert paths_in("a: &a\n- *a\n- /home/ann/x\n", ".yaml") == {"/home/ann/x": 3}


def test_what_is_deeply_nested_is_read_as_it_is():
    assert paths_in("[" * 100_000 + "\n/home/ann/x", ".json") == {"/home/ann/x": 2}
