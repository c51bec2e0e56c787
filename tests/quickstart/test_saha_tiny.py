"""The embedded fine-tuned model: a stock checkpoint that finds what it was trained to find."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from random import Random

import numpy as np
from sentence_transformers import SentenceTransformer

from saha_st.data.scenes import draw, sample_scene
from saha_st.data.scenes.language import caption
from saha_st.modules import load_embedder
from saha_st.prompts import HierarchicalPrompt

FOLDER = Path(str(resources.files("saha_st") / "quickstart" / "saha-tiny"))


def hits(model: SentenceTransformer) -> float:
    rng = Random(3)
    scenes = {scene.concept: scene for scene in (sample_scene(rng, kind="group") for _ in range(60))}
    pictures = [draw(scene, seed=index) for index, scene in enumerate(scenes.values())]
    captions = [caption(scene, rng) for scene in scenes.values()]
    cosines = model.encode_query(captions) @ model.encode_document(pictures).T
    return float((cosines.argmax(axis=1) == np.arange(len(captions))).mean())


def test_the_folder_is_small_and_holds_stock_modules_and_no_code():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8 * 10**6
    assert {path.suffix for path in files} == {".json", ".jinja", ".safetensors", ".md", ".yaml", ".png"}
    modules = json.loads((FOLDER / "modules.json").read_text())
    assert [module["type"].split(".")[0] for module in modules] == ["sentence_transformers"] * 3


def test_it_finds_pictures_by_their_captions_better_than_its_base():
    tuned = load_embedder("saha-tiny", device="cpu")
    assert tuned[0].prompt == HierarchicalPrompt()
    assert hits(tuned) > max(hits(load_embedder("saha-tiny-base", device="cpu")), 0.6)


def test_plain_sentence_transformers_gives_the_same_vectors():
    inputs = ["a red circle", draw(sample_scene(Random(0)), seed=0)]
    plain, ours = SentenceTransformer(str(FOLDER), device="cpu"), load_embedder("saha-tiny", device="cpu")
    np.testing.assert_allclose(plain.encode_query(inputs), ours.encode_query(inputs), atol=1e-6)
