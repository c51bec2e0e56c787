"""InfoNCE over clusters in which every positive is everybody else's hard negative, without false negatives.

Gradient caching, embedding and mini-batches are Sentence Transformers'. What is added is what clusters need: the same
document recurs in a batch (as somebody else's positive, or in another cluster), and as a negative it would be pushed
away from the very anchor that it answers. Which documents these are is known from the ``label`` column.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import sentence_transformers
import torch
import tqdm
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.gradcache import RandContext
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
from sentence_transformers.util import all_gather, all_gather_with_grad, get_rank
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from saha_st.losses.known_pairs import KnownPairs
from saha_st.losses.mini_batches import (
    FailedMiniBatch,
    Features,
    MiniBatches,
    check_mini_batches,
    fill,
    in_turn,
    take_rows,
)
from saha_st.token_budgets import MINI_BATCH_NUM_TOKENS

_SCORE_ROWS = 32

logger = logging.getLogger(__name__)

_DEALT, _WHOLE = "dealt_out", "whole_column"
"""Keys of a column that is dealt out by tokens: its `MiniBatches`, and its features as they came."""


class SaHaLoss(CachedMultipleNegativesRankingLoss):
    """InfoNCE over all documents of the (global) batch, cached, with known and likely false negatives masked.

    For anchor i the loss is the cross entropy of its positive against every other document of the batch, which are the
    positives of all other rows and, if there are further columns, all hard negatives. Of these are left out:

    * every document that the batch itself shows to be a positive of anchor i, according to ``label``: the same
      document again, other positives of the same anchor, and these where they belong to another anchor;
    * with ``false_negative_margin``, every document whose cosine with anchor i exceeds the positive's by more than
      this margin.

    The anchor's own positive is never masked. Cosines are computed in float32 even if the model runs in bfloat16: at a
    scale of 50, rounding to bfloat16 would move a logit by up to 0.1.

    With ``gather_across_devices`` every process contrasts its own anchors with the documents of all processes.
    Averaged over the processes, as DistributedDataParallel does with gradients, loss and gradients are those of one
    process with the whole batch. All processes need the same number of rows, which
    :class:`~saha_st.samplers.ClusterBatchSampler` sees to.

    Args:
        model: The model to train.
        scale: Factor of the cosines, 1 / temperature. The paper's temperature is 0.02.
        mini_batch_size: Compute so many rows of the score matrix at a time, by default 32; and, unless
            ``mini_batch_num_tokens`` is given as well, embed so many rows at a time, however long they are.
        mini_batch_num_tokens: Embed so many tokens at a time: rows sorted by length, images counted as their
            placeholder tokens, padding counted. This bounds the memory, whatever the batch size. A longer row is
            embedded alone, so it should be no less than the longest row has. Default: 4,096, unless
            ``mini_batch_size`` is given. If both are given, this alone decides what is embedded at a time
            (``mini_batch_size`` only for features without an attention mask, whose lengths nobody knows). Neither has
            an influence on the result but for rounding and dropout masks.
        gather_across_devices: Whether documents of all processes are negatives.
        false_negative_margin: Mask documents with a cosine above the positive's plus this margin; cosine units, before
            the scale. None masks none. Qwen3-VL-Embedding uses 0.1.
        mask_duplicates: Whether to mask known positives by ``label``.
        show_progress_bar: Whether to show a progress bar over the mini-batches.

    Raises:
        ValueError: ``scale``, a mini-batch's size or ``false_negative_margin`` is out of range; on a batch, the label
            is neither one number a row nor three.
        torch.OutOfMemoryError: A mini-batch does not fit; its attribute ``mini_batch`` is a
            :class:`~saha_st.losses.mini_batches.FailedMiniBatch`.

    References:
        - From Generator to Embedder: https://huggingface.co/papers/2508.00955
        - Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup: https://huggingface.co/papers/2101.06983

    Requirements:
        1. A dataset mined with :func:`~saha_st.mining.mine_saha_clusters`, its rows in cluster order.
        2. Whole clusters in a batch: :class:`~saha_st.samplers.ClusterBatchSampler` as ``batch_sampler``.

    Inputs:
        +-------------------------------------------------+-----------------------------+
        | Columns                                         | Labels                      |
        +=================================================+=============================+
        | (anchor, positive) pairs                        | [cluster, anchor, positive] |
        +-------------------------------------------------+-----------------------------+
        | (anchor, positive, negative_1, ..., negative_n) | [cluster, anchor, positive] |
        +-------------------------------------------------+-----------------------------+
        | any of these                                    | none                        |
        +-------------------------------------------------+-----------------------------+

        Without labels, or with labels of one number a row, duplicates are not known and hence not masked.

    Relations:
        - Without masks, and in batches without duplicates, it equals ``CachedMultipleNegativesRankingLoss`` of the
          same scale.
        - ``MatryoshkaLoss(model, SaHaLoss(model), [1536, 512, 128])`` trains the first dimensions of a vector as well,
          from the same two forward passes; masks and mini-batches stay, and metrics are those of the most dimensions.

    Example:
        ::

            from saha_st import ClusterBatchSampler, SaHaLoss, load_embedder, mine_saha_clusters
            from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

            model = load_embedder("Qwen/Qwen2-VL-2B-Instruct")
            train_dataset = mine_saha_clusters(pairs, model)
            args = SentenceTransformerTrainingArguments(
                output_dir="saha",
                per_device_train_batch_size=256,
                batch_sampler=ClusterBatchSampler,
                router_mapping={"anchor": "query", "positive": "document"},
            )
            loss = SaHaLoss(model)
            # With several processes, pass callbacks=[saha_st.samplers.SetEpochCallback()]: a resumed run needs it.
            SentenceTransformerTrainer(model=model, args=args, train_dataset=train_dataset, loss=loss).train()
    """

    def __init__(
        self,
        model: SentenceTransformer,
        scale: float = 50.0,
        mini_batch_size: int | None = None,
        mini_batch_num_tokens: int | None = None,
        gather_across_devices: bool = False,
        false_negative_margin: float | None = None,
        mask_duplicates: bool = True,
        show_progress_bar: bool = False,
    ) -> None:
        check_mini_batches(mini_batch_size, mini_batch_num_tokens)
        if mini_batch_size is None and mini_batch_num_tokens is None:
            mini_batch_num_tokens = MINI_BATCH_NUM_TOKENS
        if false_negative_margin is not None and not math.isfinite(false_negative_margin):
            raise ValueError(
                f"false_negative_margin must be a finite difference of cosines or None, got {false_negative_margin}."
            )
        super().__init__(
            model,
            scale=scale,
            mini_batch_size=_SCORE_ROWS if mini_batch_size is None else mini_batch_size,
            mini_batch_num_tokens=mini_batch_num_tokens,
            gather_across_devices=gather_across_devices,
            show_progress_bar=show_progress_bar,
        )
        self.false_negative_margin = false_negative_margin
        self.mask_duplicates = mask_duplicates
        self._metric_sums: dict[str, Tensor] = {}
        self._metric_rows: dict[str, Tensor | int] = {}
        self._warned_of_missing_labels = False
        self._warned_of_long_row = False
        # Of the batch at hand; no features, which would stay on the device until the next batch is there as well.
        self._dealt: list[MiniBatches | None] = []
        self._number_of_column: dict[int, int] = {}
        self._labels: Tensor | None = None
        self._is_observed = False
        self._image_token = getattr(getattr(model[0], "config", None), "image_token_id", None)

    def forward(self, sentence_features: Iterable[Features], labels: Tensor | None = None) -> Tensor:
        """Return the loss of a batch, a scalar; gradients are computed when it is back-propagated.

        Args:
            sentence_features: The features of each column: anchors, positives, then hard negatives.
            labels: [cluster, anchor, positive] of each row, shape (rows, 3), if they are known.
        """
        columns = [self._dealt_out(features) for features in sentence_features]
        self._dealt = [column.get(_DEALT) for column in columns]
        self._number_of_column = {id(column): number for number, column in enumerate(columns)}
        self._labels = labels
        self._is_observed = False
        return super().forward(columns, labels)

    def embed_minibatch_iter(
        self,
        sentence_feature: Features,
        with_grad: bool,
        copy_random_state: bool,
        random_states: list[Any] | None = None,
        ranges: list[tuple[int, int]] | None = None,
    ) -> Iterator[tuple[Tensor, Any]]:
        """Embed the mini-batches of a column, one after the other.

        Raises:
            RuntimeError: This version of Sentence Transformers counts mini-batches otherwise than the one that was
                tested.
        """
        if (dealt := sentence_feature.get(_DEALT)) is not None:
            expected = [(number, number + 1) for number in range(len(dealt.rows))]
            ranges = expected if ranges is None else [tuple(item) for item in ranges]
            # All of them, or one: under DDP a single mini-batch may be embedded a third time.
            if ranges != expected and not (random_states and len(ranges) == 1 and ranges[0] in expected):
                raise RuntimeError(
                    f"{len(expected)} mini-batches were dealt out by tokens, but Sentence Transformers "
                    f"{sentence_transformers.__version__} asks for {ranges}: rows would be taken for others. Pass "
                    "mini_batch_size to embed by rows, or install a release that this package was tested with."
                )
        return super().embed_minibatch_iter(
            sentence_feature=sentence_feature,
            with_grad=with_grad,
            copy_random_state=copy_random_state,
            random_states=random_states,
            ranges=ranges,
        )

    def embed_minibatch(
        self, sentence_feature: Features, begin: int, end: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Any]:
        """Embed a mini-batch: rows ``begin`` to ``end``, or the one of that number that was dealt out by tokens."""
        dealt = sentence_feature.get(_DEALT)
        rows = list(range(begin, end)) if dealt is None else dealt.rows[begin]
        features = sentence_feature
        try:
            if "cu_seq_lens_q" in features:  # without padding, Sentence Transformers cuts
                return super().embed_minibatch(features, begin, end, *args, **kwargs)
            features = take_rows(features.get(_WHOLE, features), rows, image_token=self._image_token)
            return self._embed(features, *args, **kwargs)
        except torch.OutOfMemoryError as error:
            error.mini_batch = self._failed(sentence_feature, rows)
            raise

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        """Compute the loss from the embeddings of all mini-batches, ``mini_batch_size`` rows of scores at a time.

        Args:
            reps: For each column its mini-batches of embeddings, each of shape (mini-batch, dim).
            labels: [cluster, anchor, positive] of each row, shape (rows, 3). None or one number a row show no pairs.
            with_backward: Back-propagate to ``reps``, and return the loss detached.

        Returns:
            The mean loss of this process's rows, a scalar.
        """
        anchors, *columns = map(_in_line, reps, self._dealt or [None] * len(reps))  # each (rows, dim)
        labels = self._checked_labels(labels, rows=len(anchors))
        first = 0
        if self.gather_across_devices:
            columns = [all_gather_with_grad(column) for column in columns]  # each (rows of all processes, dim)
            labels = None if labels is None else all_gather(labels.to(anchors.device).contiguous())
            first = get_rank() * len(anchors)
        known = None if labels is None else KnownPairs.of(labels.to(anchors.device))
        with torch.autocast(anchors.device.type, enabled=False):
            return self._contrast(_unit(anchors), _unit(torch.cat(columns)), known, first, with_backward)

    def mini_batches(self, lengths: list[int]) -> list[list[int]]:
        """Return the rows of each mini-batch into which a column of rows with so many tokens is divided."""
        if self.mini_batch_num_tokens is not None:
            return fill(lengths, self.mini_batch_num_tokens)
        return in_turn(len(lengths), self.mini_batch_size)

    def pop_metrics(self) -> dict[str, Tensor]:
        """Averages over the rows trained on since the last call, on this process; empty if there were none.

        Each value is a scalar tensor, so that nothing waits for the device before a value is read:

        * ``positive_cosine``: cosine of anchor and own positive;
        * ``hardest_negative_cosine``: the largest cosine of an anchor with a negative that is not masked;
        * ``in_batch_accuracy``: how often the own positive beats that negative;
        * ``masked_share``: share of the other documents that is masked.

        Rows without any negative do not count in the second and third, which are NaN if there are no
        others.

        Evaluation leaves them alone. ``trainer.track_loss_components(loss.pop_metrics())`` after each step logs them
        beside the loss.
        """
        sums, rows = self._metric_sums, self._metric_rows
        self._metric_sums, self._metric_rows = {}, {}
        return {name: total / rows[name] for name, total in sums.items()}

    def get_config_dict(self) -> dict[str, Any]:
        """The arguments, for the model card."""
        return {
            "scale": self.scale,
            "mini_batch_size": self.mini_batch_size,
            "mini_batch_num_tokens": self.mini_batch_num_tokens,
            "gather_across_devices": self.gather_across_devices,
            "false_negative_margin": self.false_negative_margin,
            "mask_duplicates": self.mask_duplicates,
        }

    @property
    def citation(self) -> str:
        """BibTeX of the paper, and of gradient caching."""
        return _CITATION + super().citation

    def _embed(
        self, features: Features, with_grad: bool, copy_random_state: bool, random_state: RandContext | None = None
    ) -> tuple[Tensor, RandContext | None]:
        """Embed rows that are cut out; Sentence Transformers would cut again, as many frames of videos as rows."""
        with nullcontext() if random_state is None else random_state, nullcontext() if with_grad else torch.no_grad():
            state = RandContext(*features.values()) if copy_random_state else None
            # A dict of its own: modules write what they compute into it, and the batch would keep that.
            return self.model(dict(features))["sentence_embedding"], state  # (rows, dim)

    def _dealt_out(self, features: Features) -> Features:
        """A column as mini-batches of so many tokens, in the form in which Sentence Transformers counts them.

        Features without padding are left as they are: it fills those by tokens itself.
        """
        if self.mini_batch_num_tokens is None or "cu_seq_lens_q" in features:
            return features
        dealt = MiniBatches.of(features, self.mini_batch_num_tokens, rows_without_lengths=self.mini_batch_size)
        self._warn_of_long_row(max(dealt.lengths, default=0))
        # One row for each mini-batch, and each row fills a mini-batch: its own code then loops over ours.
        full = torch.full((len(dealt.rows), 1), self.mini_batch_num_tokens)
        return {"attention_mask": full, _DEALT: dealt, _WHOLE: features}

    def _failed(self, column: Features, rows: list[int]) -> FailedMiniBatch:
        """What a mini-batch held that did not fit into the memory."""
        whole = column.get(_WHOLE, column)
        mask = whole.get("attention_mask")
        tokens = () if mask is None else tuple(mask.cpu()[rows].sum(dim=1).tolist())  # there is no memory on a GPU
        labels = None if self._labels is None else self._labels.tolist()
        return FailedMiniBatch(self._number_of_column.get(id(column), 0), tuple(rows), tokens, labels)

    def _warn_of_long_row(self, longest: int) -> None:
        if longest > self.mini_batch_num_tokens and not self._warned_of_long_row:
            logger.warning(
                "A row has %d tokens, more than mini_batch_num_tokens=%d: embedded alone, it takes more memory. Raise "
                "mini_batch_num_tokens, or lower max_seq_length or image_tokens. (Said once.)",
                longest,
                self.mini_batch_num_tokens,
            )
            self._warned_of_long_row = True

    def _contrast(
        self, anchors: Tensor, documents: Tensor, known: KnownPairs | None, first: int, with_backward: bool
    ) -> Tensor:
        """The loss of unit vectors (rows, dim) and (documents, dim), where row i's positive is document first + i."""
        sources = anchors, documents
        if with_backward:
            # Chunks back-propagate into leaves, and these once into the mini-batches: behind the documents there is a
            # collective, which must not run for every chunk.
            anchors, documents = (source.detach().requires_grad_() for source in sources)
        rows = len(anchors)
        total = anchors.new_zeros(())
        chunks = range(0, rows, self.mini_batch_size)
        for begin in tqdm.tqdm(chunks, desc="Calculating loss", disable=not self.show_progress_bar):
            end = min(begin + self.mini_batch_size, rows)
            own = torch.arange(first + begin, first + end, device=anchors.device)  # (chunk,)
            cosines = anchors[begin:end] @ documents.T  # (chunk, documents)
            masked = self._false_negatives(cosines.detach(), own, known)
            logits = (cosines * self.scale).masked_fill(masked, -torch.inf)
            loss = cross_entropy(logits, own, reduction="sum") / rows
            if with_backward:
                loss.backward()
                loss = loss.detach()
                if not self._is_observed:
                    self._observe(cosines.detach(), masked, own)
            total = total + loss
        if with_backward:
            torch.autograd.backward(sources, (anchors.grad, documents.grad))
            self._is_observed = True  # `MatryoshkaLoss` comes again with fewer dimensions
        return total

    def _false_negatives(self, cosines: Tensor, own: Tensor, known: KnownPairs | None) -> Tensor:
        """Which documents are no negatives of which row, shape (chunk, documents); never the row's own positive."""
        masked = torch.zeros_like(cosines, dtype=torch.bool)
        if known is not None:
            masked[:, : len(known.positives)] = known.lookup(own)  # the further columns are hard negatives
        if self.false_negative_margin is not None:
            masked |= cosines > cosines.gather(1, own[:, None]) + self.false_negative_margin
        return masked.scatter(1, own[:, None], False)

    def _observe(self, cosines: Tensor, masked: Tensor, own: Tensor) -> None:
        """Add a chunk to the metrics; all of shape (chunk, documents) but ``own``, (chunk,)."""
        positive = cosines.gather(1, own[:, None]).squeeze(1)
        hardest = cosines.masked_fill(masked.scatter(1, own[:, None], True), -torch.inf).amax(dim=1)
        contrasted = hardest > -torch.inf  # a row whose documents are all masked would count as a perfect one
        sums_and_rows = {
            "positive_cosine": (positive.sum(), len(own)),
            "hardest_negative_cosine": (hardest.masked_fill(~contrasted, 0.0).sum(), contrasted.sum()),
            "in_batch_accuracy": ((contrasted & (positive > hardest)).sum().to(cosines.dtype), contrasted.sum()),
            "masked_share": (masked.sum() / max(cosines.shape[1] - 1, 1), len(own)),
        }
        for name, (total, rows) in sums_and_rows.items():
            self._metric_sums[name] = self._metric_sums.get(name, 0) + total
            self._metric_rows[name] = self._metric_rows.get(name, 0) + rows

    def _checked_labels(self, labels: Tensor | None, rows: int) -> Tensor | None:
        """Labels of shape (rows, 3), or None if duplicates are not to be masked or not known."""
        if not self.mask_duplicates:
            return None
        if labels is None or labels.ndim == 1:
            if not self._warned_of_missing_labels:
                logger.warning(
                    "There is no label [cluster, anchor, positive], so duplicates in a batch are trained as "
                    "negatives. Mine the dataset with mine_saha_clusters, or pass mask_duplicates=False to say that "
                    "there are none."
                )
                self._warned_of_missing_labels = True
            return None
        if labels.shape != (rows, 3) or labels.is_floating_point():
            raise ValueError(
                f"Labels must be three integers for each of the {rows} rows, [cluster, anchor, positive], but have "
                f"shape {tuple(labels.shape)} and type {labels.dtype}. Use a dataset from mine_saha_clusters, or pass "
                "mask_duplicates=False."
            )
        return labels


def _in_line(mini_batches: list[Tensor], dealt: MiniBatches | None) -> Tensor:
    """The embeddings of a column in the order of its rows, shape (rows, dim)."""
    embeddings = torch.cat(mini_batches)
    if dealt is None or len(dealt.rows) == 1:
        return embeddings
    return embeddings[torch.tensor(dealt.place_of_row, device=embeddings.device)]


def _unit(vectors: Tensor) -> Tensor:
    """Rows of length 1, in float32 or better."""
    return normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=1)


_CITATION = """
@misc{ju2025generator,
    title={From Generator to Embedder: Harnessing Innate Abilities of Multimodal LLMs via Building Zero-Shot
           Discriminative Embedding Model},
    author={Yeong-Joon Ju and Seong-Whan Lee},
    year={2025},
    eprint={2508.00955},
    archivePrefix={arXiv},
    url={https://arxiv.org/abs/2508.00955},
}
"""
