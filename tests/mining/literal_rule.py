"""The cluster rule once more, word for word and slowly: Python sets, one row, one document, one owner at a time.

The tests compare `assign_clusters` with it, and the benchmark its speed. Similarities are float64; it shares no code
with the package.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np


def literal_clusters(  # noqa: C901
    neighbours,
    anchor_embeddings,
    document_of_row,
    *,
    num_negatives,
    pool_multiplier,
    owner_filter=True,
    anchor_key=None,
    max_owner_similarity=None,
    relative_margin=None,
    neighbour_scores=None,
    positive_scores=None,
):
    """Returns (clusters of phase 1, clusters of phase 2), each cluster a list of rows."""
    rows = range(len(document_of_row))
    document = [int(d) for d in document_of_row]
    key = list(rows) if anchor_key is None else list(anchor_key)
    vectors = np.asarray(anchor_embeddings, dtype=np.float64)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    owners_of, positives_of = defaultdict(list), defaultdict(set)
    for row in rows:
        owners_of[document[row]].append(row)
        positives_of[key[row]].add(document[row])

    def clash(a, b):
        return document[a] in positives_of[key[b]] or document[b] in positives_of[key[a]]

    def pool(i):
        others = positives_of[key[i]] - {document[i]}
        ranked = [
            (int(d), None if neighbour_scores is None else neighbour_scores[i][rank])
            for rank, d in enumerate(neighbours[i])
            if d >= 0 and int(d) not in others
        ]
        ranked = [(d, s) for d, s in ranked[: 2 * num_negatives * pool_multiplier] if d != document[i]]
        if relative_margin is not None:
            limit = positive_scores[i] - relative_margin * abs(positive_scores[i])
            ranked = [(d, s) for d, s in ranked if s <= limit]
        return [d for d, _ in ranked]

    def similarity(a, b):
        return float(vectors[a] @ vectors[b])

    def mates(i, taken, limit):
        owners = []
        for d in pool(i):
            free = [row for row in owners_of[d] if row not in taken and not clash(row, i)]
            if free:
                owner = max(free, key=lambda row: round(similarity(i, row), 12))
                if max_owner_similarity is None or similarity(i, owner) <= max_owner_similarity:
                    owners.append(owner)
            if len(owners) == limit:
                break
        if owner_filter:
            owners = sorted(owners, key=lambda row: round(similarity(i, row), 12))
        kept = []
        for owner in owners:
            if len(kept) < num_negatives and not any(clash(owner, mate) for mate in kept):
                kept.append(owner)
        return kept

    used, phase_one, phase_two = set(), [], []
    for i in rows:
        if i not in used and (found := mates(i, used, num_negatives * pool_multiplier)):
            phase_one.append([i, *found])
            used.update(phase_one[-1])
    reused = set()
    for i in rows:
        if i not in used and (found := mates(i, reused, 2 * num_negatives * pool_multiplier)):
            phase_two.append([i, *found])
            reused.update(found)
            used.update(phase_two[-1])
    return phase_one, phase_two
