"""`benchmarks/communities.py` runs, and what it measures is what it says."""

from __future__ import annotations

import importlib
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def communities(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    yield importlib.import_module("communities")
    for name in ("communities", "cluster_rule", "measure"):
        sys.modules.pop(name, None)


OPTIONS = {"rows": [300], "owned_rows": 200, "documents": [200, 16], "dim": 8, "range_max": 90, "seed": 0}
OPTIONS |= {"subset": "Scenes_t2i", "train_rows": 24, "num_negatives": 3}


def rows_of(printed: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if line[:1] == "|"]


def test_documents_have_as_many_owners_as_is_said(communities):
    even = communities.shared_documents(200, 20, 8, seed=0)
    assert np.bincount(even.document_of_row).tolist() == [10] * 20 and even.neighbours.shape == (200, 20)
    skewed = communities.shared_documents(200, 4, 8, seed=0, skewed=True)
    assert np.bincount(skewed.document_of_row).tolist() == [108, 53, 26, 13]


@pytest.mark.parametrize("section", ["partitioners", "owners"])
def test_a_section_prints_a_row_for_each_setting(section, communities, capsys, monkeypatch):
    monkeypatch.setattr(communities, "PARTITIONERS", ("greedy",))
    monkeypatch.setattr(communities, "peak_memory", lambda call: (0, call()))  # which imports torch
    communities.SECTIONS[section](Namespace(**OPTIONS))
    header, _, *rows = rows_of(capsys.readouterr().out)
    assert header == communities.COLUMNS and all(len(row) == len(header) for row in rows)
    assert [row[1] for row in rows] == ["off", "on"] * (1 if section == "partitioners" else 3)
    assert all(float(row[3]) > 1 for row in rows)


def test_contamination_is_that_of_the_concepts(communities):
    known = communities.Known(
        np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32), np.arange(4), np.arange(4), np.array([0, 0, 1, 2])
    )
    contamination, hardness = communities._measured(known, [np.array([0, 1, 2]), np.array([3])])
    assert (contamination, hardness) == (pytest.approx(2 / 6), 0)
    known = communities.Known(*(getattr(known, name) for name in ("anchors", "documents", "document_of_row")),
                              np.array([0, 1, 1, 2]), known.concept_of_row)  # fmt: skip
    assert communities._measured(known, [np.array([0, 2])])[0] == 0.5  # the anchor of row 2 asks for concept 0 as well


def test_the_truth_is_judged_for_every_builder(communities, capsys, monkeypatch):
    monkeypatch.setattr(
        communities, "_builders", lambda: iter([("owners", {}), ("communities", {"builder": "communities"})])
    )
    communities.truth(Namespace(**OPTIONS))
    _, _, *rows = rows_of(capsys.readouterr().out)
    assert [row[0] for row in rows] == ["owners", "communities", "random clusters"]
    assert all(0 <= float(row[1].rstrip("%")) <= 100 and float(row[3]) > 1 for row in rows)
