"""Mine mutually hard clusters from a dataset of pairs, with the model that will be trained on them.

The recipe: name each distinct input, encode it once, search, form clusters, and refer back to the source rows. What
comes out is a `Dataset` of the source's own columns (nothing is copied, no image is opened) with a column ``label``
that carries ``[cluster, anchor, positive]`` as integers: Sentence Transformers hands it to samplers and losses, which
keep clusters together and recognise the same anchor or document anywhere in a batch.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, List, Value, concatenate_datasets
from sentence_transformers import SentenceTransformer

from saha_st.card.facts import prompt_of
from saha_st.data.cells import with_closed_videos
from saha_st.encoding import (
    IN_MEMORY,
    DistinctInputs,
    EncodedColumn,
    Task,
    encode_column,
    vector_fingerprint,
    weights_digest,
)
from saha_st.files import is_left_behind, name_of_own, write_text_whole, write_whole
from saha_st.mining.build import Builder, find_clusters
from saha_st.mining.checks import check_builder, check_document_of_row, check_options
from saha_st.mining.clusters import ClusterAssignment, ClusterCounts, pool_size
from saha_st.mining.communities import CommunityCounts, Partitioner, window
from saha_st.mining.metis import import_pymetis
from saha_st.mining.neighbours import import_faiss
from saha_st.modules.sources import shown_name
from saha_st.ranks import Ranks
from saha_st.token_budgets import BATCH_TOKENS

logger = logging.getLogger(__name__)

LABEL = "label"
"""The column of a mined dataset that holds [cluster, anchor, positive]."""


@dataclass(frozen=True)
class MinedClusters:
    """Clusters of a dataset's rows, by reference.

    Attributes:
        rows: Source row of each entry, in cluster order, shape (entries,). A row may occur more than once.
        labels: [cluster, anchor, positive] of each entry, shape (entries, 3): which cluster it is in, and which
            distinct anchor and distinct document its row holds.
        statistics: What happened, as plain JSON values: counts, settings, fingerprints.
        inputs: The distinct anchors and documents, where they are known: they are not saved.
    """

    rows: np.ndarray
    labels: np.ndarray
    statistics: dict[str, Any]
    inputs: tuple[DistinctInputs, DistinctInputs] | None = field(default=None, compare=False, repr=False)

    def of(self, dataset: Dataset) -> Dataset:
        """The mined dataset: the rows of ``dataset`` in cluster order.

        Returns:
            Columns ``anchor``, ``positive``, further hard negatives if there are columns ``negative…``, and ``label``.
            Other columns are left out: a trainer would take them for inputs.

        Raises:
            ValueError: ``dataset`` does not hold the pairs that were mined.
        """
        names = (self.statistics["anchor_column_name"], self.statistics["positive_column_name"])
        _check_columns(dataset, *names)
        found = pairs_digest(*(DistinctInputs.of(dataset, name) for name in names))
        if found != self.statistics["data"]:
            raise ValueError(
                f"These clusters are of other pairs: of {self.statistics['rows']} rows that were mined, this dataset "
                f"has {len(dataset)}, and not the same ones. Pass the dataset that was mined, or mine this one."
            )
        return self._joined_to(dataset, *names)

    def _joined_to(self, dataset: Dataset, anchor: str, positive: str) -> Dataset:
        negatives = [name for name in dataset.column_names if name.startswith("negative")]
        # A trainer reads rows whole: it would decode all frames of videos of which the model is shown a few.
        dataset = with_closed_videos(dataset.select_columns([anchor, positive, *negatives]))
        new_names = {anchor: "anchor", positive: "positive"}
        dataset = dataset.rename_columns({old: new for old, new in new_names.items() if old != new})
        # Adding a column to selected rows would copy their images. Instead each layer is the whole source, shared,
        # with the labels of the first, second, … time a row occurs; then the entries are selected from the layers.
        occurrence = _occurrences(self.rows)
        layers = []
        for layer in range(int(occurrence.max()) + 1):
            labels = np.full((len(dataset), 3), -1, dtype=np.int64)
            labels[self.rows[occurrence == layer]] = self.labels[occurrence == layer]
            column = pa.FixedSizeListArray.from_arrays(pa.array(labels.ravel()), 3)
            layers.append(dataset.add_column(LABEL, column, feature=List(Value("int64"), length=3)))
        mined = concatenate_datasets(layers).select((self.rows + occurrence * len(dataset)).tolist())
        mined.info.description = json.dumps(self.statistics)
        # The loss takes the first column for the anchors, and joining tables may change the order.
        return mined.select_columns(["anchor", "positive", *negatives, LABEL])

    def save(self, output_dir: str | os.PathLike[str]) -> None:
        """Write ``clusters.parquet`` (row, cluster, anchor, positive) and ``mining.json`` (the statistics)."""
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        names = ("cluster", "anchor", "positive")
        table = pa.table({"row": self.rows} | {name: self.labels[:, i] for i, name in enumerate(names)})
        write_whole(folder / "clusters.parquet", lambda file: pq.write_table(table, file))
        text = json.dumps(self.statistics, indent=2)
        write_text_whole(folder / "mining.json", text)

    @classmethod
    def load(cls, output_dir: str | os.PathLike[str]) -> MinedClusters:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: The folder holds no mining result.
        """
        folder = Path(output_dir)
        if not (folder / "mining.json").exists():
            raise FileNotFoundError(f"{str(folder)!r} holds no mining result: it has no mining.json.")
        table = pq.read_table(folder / "clusters.parquet")
        columns = [table.column(name).to_numpy() for name in ("row", "cluster", "anchor", "positive")]
        return cls(columns[0], np.stack(columns[1:], axis=1), json.loads((folder / "mining.json").read_text()))


def mine_saha_clusters(
    dataset: Dataset,
    model: SentenceTransformer,
    *,
    output_dir: str | os.PathLike[str] | None = None,
    ranks: Ranks | None = None,
    **options: Any,
) -> Dataset:
    """Mine mutually hard clusters: everybody's positive is everybody else's hard negative.

    Args:
        dataset: Pairs of one task; strings, images, or structs of texts, images and videos in either column. An anchor
            may have several positives, a positive several anchors.
        model: The embedder, ideally the one that is trained afterwards.
        output_dir: Also write ``clusters.parquet`` and ``mining.json`` there.
        ranks: As in `find_saha_clusters`; the first process writes.
        **options: As in `find_saha_clusters`.

    Returns:
        The rows of ``dataset`` in cluster order, with ``label`` = [cluster, anchor, positive]; images are referred
        to, not copied, and frames of videos stay closed. ``info.description`` holds the statistics as JSON.

    Raises:
        ValueError: See `find_saha_clusters`.

    Source: Ju & Lee, arXiv 2508.00955, sections 3.2 and 3.3.

    Example:
        ```python
        model = load_embedder("Qwen/Qwen2-VL-2B-Instruct")
        mined = mine_saha_clusters(pairs, model, num_negatives=15, cache_folder="vectors")
        ```
    """
    mined = find_saha_clusters(dataset, model, ranks=ranks, **options)
    if output_dir is not None and (ranks is None or ranks.is_main):
        mined.save(output_dir)
    return mined._joined_to(dataset, mined.statistics["anchor_column_name"], mined.statistics["positive_column_name"])


def label_pairs(
    dataset: Dataset, *, anchor_column_name: str = "anchor", positive_column_name: str = "positive"
) -> Dataset:
    """Label pairs without mining them: every row is a cluster of its own.

    For training on random batches whose known duplicates are masked all the same.

    Args:
        dataset: Pairs.
        anchor_column_name: Column of the anchors.
        positive_column_name: Column of the positives.

    Returns:
        The rows in their order, with ``label`` = [row, anchor, positive].
    """
    _check_columns(dataset, anchor_column_name, positive_column_name)
    rows = np.arange(len(dataset))
    inputs = [DistinctInputs.of(dataset, name).index_of_row for name in (anchor_column_name, positive_column_name)]
    labels = np.stack([rows, *inputs], axis=1)
    return MinedClusters(rows, labels, {"rows": len(rows)})._joined_to(
        dataset, anchor_column_name, positive_column_name
    )


def find_saha_clusters(
    dataset: Dataset,
    model: SentenceTransformer,
    *,
    anchor_column_name: str = "anchor",
    positive_column_name: str = "positive",
    num_negatives: int = 15,
    pool_multiplier: int = 3,
    owner_filter: bool = True,
    max_owner_similarity: float | None = None,
    relative_margin: float | None = None,
    builder: Builder = "owners",
    range_min: int = 0,
    range_max: int | None = None,
    partitioner: Partitioner = "greedy",
    query_prompt: str | None = None,
    corpus_prompt: str | None = None,
    batch_size: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    use_faiss: bool = False,
    faiss_index: str | None = None,
    cache_folder: str | os.PathLike[str] | None = None,
    show_progress_bar: bool = True,
    ranks: Ranks | None = None,
) -> MinedClusters:
    """`mine_saha_clusters` as references to rows, before they are joined to the dataset again.

    Args:
        dataset: Pairs of one task.
        model: The embedder.
        anchor_column_name: Column of the anchors, encoded as queries.
        positive_column_name: Column of the positives, encoded as documents.
        num_negatives: Mates of a full cluster, K (paper: 15).
        pool_multiplier: m; the 2·K·m nearest documents are looked at (paper: 3).
        owner_filter: Drop candidates whose owner asks nearly the same thing; False for classification data.
        max_owner_similarity: Beyond the paper: drop owners whose anchor has a greater cosine with the anchor.
        relative_margin: Beyond the paper, as in `mine_hard_negatives`: drop documents more similar to the anchor
            than (1 - relative_margin) times its positive.
        builder: ``"owners"`` is the paper's rule. ``"communities"``, beyond the paper: rows that lie in each other's
            window of ranks share an edge, and all rows are divided into clusters with many edges inside, as in B3;
            ``owner_filter`` then keeps rows apart that ask nearly the same thing. See `saha_st.mining.communities`.
        range_min: First rank of the window of ``"communities"``, as in `mine_hard_negatives`.
        range_max: The rank behind its last one; None: ``range_min`` + 2·K·m.
        partitioner: What divides the rows of ``"communities"``: ``"greedy"``, or ``"metis"`` (extra ``metis``).
        query_prompt: Replaces the system level for anchors.
        corpus_prompt: Replaces the system level for positives.
        batch_size: Most inputs per forward; by default as many as fit ``batch_tokens``.
        batch_tokens: Most tokens per forward, padding counted.
        use_faiss: Search with FAISS (extra ``faiss``) instead of torch.
        faiss_index: FAISS factory string for an approximate index, such as ``"IVF1024,Flat"``; implies ``use_faiss``.
        cache_folder: Where to keep vectors; a killed run goes on from there.
        show_progress_bar: Show bars with the time left.
        ranks: Processes that share the encoding and the search; each must call this, with the same arguments and a
            ``cache_folder`` that all of them see, and gets the result. `Ranks.current()` for all that `torchrun` or
            `accelerate launch` has started; None: this one does it all, whoever else there is.

    Raises:
        ValueError: Fewer than two rows or two distinct positives, a missing column, ``num_negatives`` larger than the
            data, an empty cell, a missing or unreadable image, a vector that is not finite; with row and column.
            Processes with different models or data, or without a common folder.
        OtherProcessFailedError: Another process failed.
    """
    ranks = Ranks() if ranks is None else ranks
    check_options(num_negatives, pool_multiplier, max_owner_similarity, relative_margin)
    check_builder(builder, partitioner, range_min, range_max)
    if partitioner == "metis":
        import_pymetis()
    use_faiss = use_faiss or faiss_index is not None
    if use_faiss:
        import_faiss()
    _check_columns(dataset, anchor_column_name, positive_column_name)
    anchors = DistinctInputs.of(dataset, anchor_column_name)
    documents = DistinctInputs.of(dataset, positive_column_name)
    check_document_of_row(documents.index_of_row, num_negatives=num_negatives)
    weights = weights_digest(model)
    prompts = {"query_prompt": query_prompt, "corpus_prompt": corpus_prompt}
    names = {"anchor_column_name": anchor_column_name, "positive_column_name": positive_column_name}
    origin = _origin(model, weights, anchors, documents) | _name_and_prompt(model) | prompts | names
    if ranks.count > 1:
        ranks.require_same("model", origin["model"])
        ranks.require_same("dataset", origin["data"])
        ranks.require_common_folder(cache_folder, "cache_folder")
    show_progress_bar = show_progress_bar and ranks.is_main

    def encode(column: str, inputs: DistinctInputs, task: Task, prompt: str | None) -> EncodedColumn:
        options = {"cache_folder": cache_folder, "show_progress_bar": show_progress_bar, "ranks": ranks}
        options |= {"distinct": inputs, "weights": weights, "batch_size": batch_size, "batch_tokens": batch_tokens}
        return encode_column(dataset, column, model, task=task, prompt=prompt, **options)

    settings = _settings(
        num_negatives=num_negatives,
        pool_multiplier=pool_multiplier,
        owner_filter=owner_filter,
        max_owner_similarity=max_owner_similarity,
        relative_margin=relative_margin,
        builder=builder,
        range_min=range_min,
        range_max=range_max,
        partitioner=partitioner,
        use_faiss=use_faiss,
        faiss_index=faiss_index,
    )
    pool = settings.get("range_max", pool_size(num_negatives, pool_multiplier))
    of_anchors = encode(anchor_column_name, anchors, "query", query_prompt).of_rows
    of_documents = encode(positive_column_name, documents, "document", corpus_prompt).embeddings
    with ranks.together(), _room_for_lists(cache_folder if ranks.is_main else None, len(dataset), pool) as room:
        assignment = find_clusters(
            of_anchors,
            of_documents,
            documents.index_of_row,
            anchor_key=anchors.index_of_row,
            output_folder=room,
            show_progress_bar=show_progress_bar,
            ranks=ranks,
            **settings,
        )
        mined = None
        if ranks.is_main:
            mined = _by_reference(assignment, anchors, documents)
            mined.statistics.update(settings=settings, **origin)
            _log(mined.statistics)
    return replace(_shared(mined, ranks), inputs=(anchors, documents))


def load_saha_clusters(
    output_dir: str | os.PathLike[str],
    dataset: Dataset,
    model: SentenceTransformer,
    *,
    anchor_column_name: str = "anchor",
    positive_column_name: str = "positive",
    query_prompt: str | None = None,
    corpus_prompt: str | None = None,
    **options: Any,
) -> MinedClusters:
    """`MinedClusters.load`, if it is what `find_saha_clusters` would find with these arguments.

    Args:
        output_dir: Where it was saved.
        dataset: As in `find_saha_clusters`.
        model: As in `find_saha_clusters`.
        anchor_column_name: As in `find_saha_clusters`.
        positive_column_name: As in `find_saha_clusters`.
        query_prompt: As in `find_saha_clusters`.
        corpus_prompt: As in `find_saha_clusters`.
        **options: The settings of the rule and of the search, as in `find_saha_clusters`.

    Raises:
        FileNotFoundError: The folder holds no mining result.
        ValueError: It is of other pairs, another model or other settings.
    """
    mined = MinedClusters.load(output_dir)
    _check_columns(dataset, anchor_column_name, positive_column_name)
    inputs = DistinctInputs.of(dataset, anchor_column_name), DistinctInputs.of(dataset, positive_column_name)
    wanted = {"anchor_column_name": anchor_column_name, "positive_column_name": positive_column_name}
    wanted |= {"query_prompt": query_prompt, "corpus_prompt": corpus_prompt}
    wanted |= _settings(**options) | _origin(model, weights_digest(model), *inputs)
    found = mined.statistics | mined.statistics["settings"]
    differing = [name for name, value in wanted.items() if found.get(name) != value]
    if differing:
        libraries = "other versions of transformers or sentence-transformers"
        words = {"data": "of other pairs", "model": f"by another model, another state of it, or {libraries}"}
        named = [words.get(name, f"with {name}={found.get(name)!r}, not {wanted[name]!r}") for name in differing]
        raise ValueError(
            f"{str(output_dir)!r} holds the result of another mining: {'; '.join(named)}. Choose another folder, or "
            "remove clusters.parquet and mining.json there (vectors may stay)."
        )
    return replace(mined, inputs=inputs)


def _settings(
    *,
    num_negatives: int = 15,
    pool_multiplier: int = 3,
    owner_filter: bool = True,
    max_owner_similarity: float | None = None,
    relative_margin: float | None = None,
    builder: Builder = "owners",
    range_min: int = 0,
    range_max: int | None = None,
    partitioner: Partitioner = "greedy",
    use_faiss: bool = False,
    faiss_index: str | None = None,
) -> dict[str, Any]:
    """The options of `find_clusters` that decide what is found."""
    settings = {
        "num_negatives": num_negatives,
        "pool_multiplier": pool_multiplier,
        "owner_filter": owner_filter,
        "max_owner_similarity": max_owner_similarity,
        "relative_margin": relative_margin,
        "builder": builder,
    }
    if builder == "communities":
        first, behind = window(num_negatives, pool_multiplier, range_min, range_max)
        settings |= {"range_min": first, "range_max": behind, "partitioner": partitioner}
    return settings | {"backend": "faiss" if use_faiss or faiss_index else "torch", "faiss_index": faiss_index}


def _origin(
    model: SentenceTransformer, weights: str, anchors: DistinctInputs, documents: DistinctInputs
) -> dict[str, str]:
    """Fingerprints of what was mined, and by which model."""
    return {"model": vector_fingerprint(model, weights=weights), "data": pairs_digest(anchors, documents)}


def _name_and_prompt(model: SentenceTransformer) -> dict[str, Any]:
    """What a reader knows a model by; the fingerprint decides."""
    if not isinstance(model, SentenceTransformer):  # what answers for one
        return {"model_name": None, "prompt": None}
    source = model.model_card_data.model_id or model.model_card_data.base_model
    source = source or getattr(getattr(model[0], "model", None), "name_or_path", None)
    prompt = prompt_of(model)
    return {"model_name": source and shown_name(source), "prompt": prompt and prompt.to_dict()}


def _room_for_lists(cache_folder: str | os.PathLike[str] | None, rows: int, pool: int) -> Any:
    """A context with a folder for lists of neighbours that are too large for the memory; None if they are not.

    Removes those that processes of this machine have left that were killed.
    """
    if cache_folder is None or 8 * rows * pool <= IN_MEMORY:  # a document and a cosine each
        return nullcontext()
    for folder in Path(cache_folder).glob("neighbours-*"):
        if is_left_behind(folder.name):
            shutil.rmtree(folder, ignore_errors=True)
    return TemporaryDirectory(prefix=name_of_own("neighbours"), dir=cache_folder)


def _check_columns(dataset: Dataset, *columns: str) -> None:
    for column in columns:
        if column not in dataset.column_names:
            raise ValueError(
                f"The dataset has no column {column!r}; it has {', '.join(dataset.column_names)}. Name the columns "
                "with anchor_column_name and positive_column_name."
            )
    if len(dataset) < 2:
        raise ValueError(
            f"The dataset has {len(dataset)} row{'s' * (len(dataset) != 1)}; a cluster needs at least two pairs."
        )


def _by_reference(assignment: ClusterAssignment, anchors: DistinctInputs, documents: DistinctInputs) -> MinedClusters:
    if not assignment.clusters:
        raise ValueError(_why_no_clusters(assignment.counts))
    rows = np.concatenate(assignment.clusters)
    cluster = np.repeat(np.arange(len(assignment.clusters)), [len(members) for members in assignment.clusters])
    labels = np.stack([cluster, anchors.index_of_row[rows], documents.index_of_row[rows]], axis=1)
    counts = asdict(assignment.counts)
    counts["cluster_sizes"] = {str(size): count for size, count in counts["cluster_sizes"].items()}
    return MinedClusters(rows, labels, counts | {"anchors": len(anchors), "documents": len(documents)})


def _why_no_clusters(counts: ClusterCounts | CommunityCounts) -> str:
    if isinstance(counts, CommunityCounts) and counts.pairs_kept_apart + counts.pairs_too_similar:
        return (
            f"No row of {counts.rows} has a mate: owner_filter keeps {counts.pairs_kept_apart} pairs of rows apart, "
            f"max_owner_similarity {counts.pairs_too_similar}, and that leaves nobody for anybody. Set "
            "owner_filter=False (--no_owner_filter) or raise max_owner_similarity, or mine more rows."
        )
    return (
        f"No row of {counts.rows} has a mate: every document near an anchor is its own positive, or was dropped. "
        "Relax max_owner_similarity and relative_margin, or check that the positives differ."
    )


def _shared(mined: MinedClusters | None, ranks: Ranks) -> MinedClusters:
    """What the first process has mined, in all processes."""
    if ranks.count == 1:
        return mined
    rows, labels, statistics = (None,) * 3 if mined is None else (mined.rows, mined.labels, mined.statistics)
    return MinedClusters(ranks.share_array(rows), ranks.share_array(labels), ranks.share(statistics))


def pairs_digest(anchors: DistinctInputs, documents: DistinctInputs) -> str:
    """Name the pairs, row by row."""
    digest = blake2b(anchors.keys[anchors.index_of_row].tobytes(), digest_size=16)
    digest.update(documents.keys[documents.index_of_row].tobytes())
    return digest.hexdigest()


def _occurrences(rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """For each entry, how often its value occurred before."""
    rows = np.asarray(rows)
    order = np.argsort(rows, kind="stable")
    starts = np.flatnonzero(np.diff(rows[order], prepend=-1))
    lengths = np.diff(np.append(starts, len(rows)))
    occurrence = np.empty(len(rows), dtype=np.int64)
    occurrence[order] = np.arange(len(rows)) - np.repeat(starts, lengths)
    return occurrence


def _log(statistics: dict[str, Any]) -> None:
    sizes = ", ".join(f"{size}: {count}" for size, count in statistics["cluster_sizes"].items())
    if "edges" in statistics:
        logger.info(
            "Mined %d communities of %d rows, with %d of %d edges inside them; %d rows left out; the owner filter "
            "keeps %d pairs of rows apart; communities by size: %s.",
            statistics["clusters"], statistics["rows"], statistics["edges_in_clusters"], statistics["edges"],
            statistics["rows_left_out"], statistics["pairs_kept_apart"], sizes,
        )  # fmt: skip
        return
    logger.info(
        "Mined %d clusters (%d in phase 2) of %d rows; %d rows without a mate; the owner filter dropped %d owners; "
        "clusters by size: %s.",
        statistics["clusters"], statistics["phase_two_clusters"], statistics["rows"], statistics["rows_left_out"],
        statistics["owners_filtered"], sizes,
    )  # fmt: skip
