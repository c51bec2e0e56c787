from __future__ import annotations

import torch

from saha_st.losses.known_pairs import KnownPairs


def lookup(labels: list[list[int]]) -> list[list[int]]:
    return KnownPairs.of(torch.tensor(labels)).lookup(torch.arange(len(labels))).int().tolist()


def test_rows_of_distinct_anchors_and_documents_only_know_themselves():
    assert lookup([[0, 5, 9], [0, 2, 3], [1, 7, 1]]) == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_the_same_document_in_another_row_is_known():
    assert lookup([[0, 1, 4], [1, 2, 4], [2, 3, 5]]) == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_another_positive_of_the_same_anchor_is_known():
    assert lookup([[0, 1, 4], [1, 1, 5], [2, 3, 6]]) == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_another_positive_of_the_anchor_is_known_where_it_belongs_to_somebody_else():
    # Anchor 1 has the documents 4 and 5; document 5 is in the batch a second time, for anchor 2.
    known = lookup([[0, 1, 4], [0, 1, 5], [1, 2, 5]])
    assert known[0] == [1, 1, 1]
    assert known[2] == [0, 1, 1]


def test_only_the_rows_asked_for_are_looked_up():
    pairs = KnownPairs.of(torch.tensor([[0, 1, 4], [1, 2, 4], [2, 3, 5]]))
    assert pairs.lookup(torch.tensor([2, 0])).int().tolist() == [[0, 0, 1], [1, 1, 0]]


def test_numbers_as_large_as_hashes_neither_collide_nor_overflow():
    large = 2**62
    assert lookup([[0, large, large - 1], [0, large - 1, large], [0, -large, 3]]) == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_the_lookup_agrees_with_a_search_pair_by_pair():
    labels = torch.randint(0, 6, (40, 3), generator=torch.Generator().manual_seed(0))
    pairs = {(anchor, positive) for _, anchor, positive in labels.tolist()}
    expected = [[int((a, p) in pairs) for _, _, p in labels.tolist()] for _, a, _ in labels.tolist()]
    assert 40 < sum(map(sum, expected)) < 1600
    assert lookup(labels.tolist()) == expected
