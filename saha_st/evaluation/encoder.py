"""A Sentence Transformer as mteb's encoder, without the losses of mteb's own wrapper.

That wrapper tells mteb that every model is for text alone, so that images are dropped; it encodes documents with their
ends stripped; it hands over images that are `None`, and texts as bare strings. None of this fails, all of it changes
scores. Here a cell reaches `encode_query` or `encode_document` as it stands in the data, image first, and each
distinct one is decoded and encoded once per run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mteb.models.abs_encoder import AbsEncoder, get_prompt_name
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import PromptType
from sentence_transformers import SentenceTransformer

from saha_st.encoding import (
    DistinctInputs,
    Encoder,
    RowReader,
    Task,
    VectorStore,
    encode_distinct,
    results_revision,
    vector_fingerprint,
    weights_digest,
)
from saha_st.evaluation.checks import SubsetCheck, subset_key
from saha_st.evaluation.inputs import inputs_of
from saha_st.evaluation.mmeb import UNDEFINED
from saha_st.modules.sources import folder_name
from saha_st.modules.transformer import HierarchicalPromptTransformer
from saha_st.prompts import HierarchicalPrompt
from saha_st.ranks import Ranks
from saha_st.token_budgets import BATCH_TOKENS

_MODALITIES = ("image", "text")  # those of mteb's own tasks that are scored here: its videos come decoded
_OF_MTEB = (ScoringFunction.COSINE, ScoringFunction.DOT_PRODUCT)  # others, the model itself computes


class Embedder(AbsEncoder):
    """An encoder for `mteb.evaluate`.

    Queries are encoded with `encode_query`, documents with `encode_document`, and so with the model's own prompts. The
    documents of a task that says `targets_as_queries` are encoded as queries, as is everything in tasks that know no
    sides (classification, STS, clustering), if the model has a hierarchical prompt.

    Args:
        model: The model.
        name: Its name in results, `organisation/name`. Default: that of the Hub, or `local/<folder>`.
        revision: Its revision in results. Default: a digest of all that its vectors depend on, so that results of
            other weights or prompts are never taken for this model's.
        cache_folder: Where to keep vectors, so that a run that was killed goes on inside a task. Default: in memory,
            as long as this object lives. Several processes (`torchrun`, `accelerate launch`) share the work through
            it, and need one.
        batch_tokens: Most tokens per forward, padding counted.
        show_progress_bar: Show a bar for each side of each task.

    Attributes:
        vectors_of: By task, and by split and subset, what tells whether the vectors are worth scoring.

    Raises:
        ValueError: Several processes without a `cache_folder`, or with different models.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        name: str | None = None,
        revision: str | None = None,
        cache_folder: str | Path | None = None,
        batch_tokens: int = BATCH_TOKENS,
        show_progress_bar: bool = True,
    ) -> None:
        self._ranks = Ranks.current()
        if self._ranks.count > 1 and cache_folder is None:
            raise ValueError(
                f"cache_folder: {self._ranks.count} processes exchange vectors through a folder that all of them see; "
                "name one."
            )
        self.model = model
        self.model_prompts = dict(model.prompts or {})
        self._weights = weights_digest(model)
        revision = revision or results_revision(model, weights=self._weights)
        self._ranks.require_same("model", revision)
        self.mteb_model_meta = _model_meta(model, name or model_name_of(model), revision)
        self.vectors_of: dict[str, dict[str, SubsetCheck]] = {}
        self._cache_folder, self._batch_tokens = cache_folder, batch_tokens
        self._show_progress_bar = show_progress_bar
        self._stores: dict[tuple[Task, str | None], VectorStore] = {}

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Encode one side of a task; shape (rows, dim), float32.

        Raises:
            ValueError: A row that cannot be encoded, with its number and the task.
        """
        role, prompt = self._role(task_metadata, prompt_type), self._prompt(task_metadata, prompt_type)
        title = f"{task_metadata.name}, {prompt_type.value if prompt_type else 'input'}"
        ours = isinstance(self.model[0], HierarchicalPromptTransformer)
        found = inputs_of(inputs.dataset, prompt_type, opens_frames=ours)
        distinct, store = DistinctInputs.of_keys(found.keys), self._store(role, prompt)
        options = {"batch_size": batch_size, "batch_tokens": self._batch_tokens}
        encoder = Encoder(self.model, task=role, prompt=prompt, **options)
        read = found.read
        if "image" not in self.mteb_model_meta.modalities:  # to such a model, a bare string is never a picture

            def read(rows: np.ndarray) -> list[str]:
                return [cell["text"] for cell in found.read(rows)]

        reader = RowReader(read, lambda row: f"{title} {row}", found.has_media, found.has_videos)
        encode_distinct(
            distinct,
            store,
            lambda windows, advance: encoder.encode_windows(reader, windows, advance),
            window=encoder.window(reader),
            title=title,
            show_progress_bar=self._show_progress_bar,
            ranks=self._ranks,
        )
        vectors = store.get(distinct.keys)
        seen = self.vectors_of.setdefault(task_metadata.name, {})
        seen.setdefault(subset_key(hf_split, hf_subset), SubsetCheck()).add(vectors)
        return vectors[distinct.index_of_row]

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Return the similarities of all pairs; shape (first, second).

        The cosines of one vector with a list of candidates, as in MMEB, are such that equal candidates get equal
        values to the last bit (a matrix product does not promise that, and ties count as hits); what is not a number
        becomes `UNDEFINED`.
        """
        if self._compare not in _OF_MTEB:
            return torch.as_tensor(self.model.similarity(embeddings1, embeddings2))
        one_with_many = np.ndim(embeddings1) == np.ndim(embeddings2) == 2 and len(embeddings1) == 1
        if not one_with_many or self._compare is not ScoringFunction.COSINE:
            return torch.as_tensor(super().similarity(embeddings1, embeddings2))
        cosines = cosine_with_each(np.asarray(embeddings1).reshape(-1), np.asarray(embeddings2))
        return torch.from_numpy(np.where(np.isfinite(cosines), cosines, UNDEFINED)).unsqueeze(0)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Return the similarities of pairs, row by row; shape (rows,)."""
        if self._compare not in _OF_MTEB:
            return torch.as_tensor(self.model.similarity_pairwise(embeddings1, embeddings2))
        return torch.as_tensor(super().similarity_pairwise(embeddings1, embeddings2))

    @property
    def _compare(self) -> ScoringFunction:
        return self.mteb_model_meta.similarity_fn_name

    def _role(self, task_metadata: Any, prompt_type: PromptType | None) -> Task:
        if prompt_type is None:
            return "query" if has_hierarchical_prompt(self.model) else None
        if prompt_type is PromptType.document and not getattr(task_metadata, "targets_as_queries", False):
            return "document"
        return "query"

    def _prompt(self, task_metadata: Any, prompt_type: PromptType | None) -> str | None:
        """Return the prompt that the model has for this very task, or `None` for that of the role."""
        name = get_prompt_name(self.model_prompts, task_metadata, prompt_type)
        return None if name in (None, "query", "document") else self.model_prompts[name]

    def _store(self, role: Task, prompt: str | None) -> VectorStore:
        if (role, prompt) not in self._stores:
            fingerprint = vector_fingerprint(self.model, task=role, prompt=prompt, weights=self._weights)
            self._stores[role, prompt] = VectorStore(self._cache_folder, fingerprint)
        return self._stores[role, prompt]


def cosine_with_each(vector: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Return the cosines of a vector, shape (dim,), with candidates, shape (candidates, dim), in float64.

    Each row is summed on its own and in the same order, so that equal rows give equal cosines.
    """
    vector, candidates = vector.astype(np.float64), np.ascontiguousarray(candidates, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        norms = np.sqrt(np.einsum("nd,nd->n", candidates, candidates)) * np.sqrt(vector @ vector)
        return np.einsum("nd,d->n", candidates, vector) / norms


def has_hierarchical_prompt(model: SentenceTransformer) -> bool:
    """Tell whether the model's chat template carries a hierarchical prompt."""
    processor = getattr(model[0], "processor", None)
    template = getattr(processor, "chat_template", None)
    return isinstance(template, str) and HierarchicalPrompt.from_chat_template(template) is not None


def modalities_of(model: SentenceTransformer) -> list[str]:
    """Return which of image and text the model takes, alone or together."""
    names = {name for each in model.modalities for name in ([each] if isinstance(each, str) else each)}
    return [name for name in _MODALITIES if name in names]


def takes_videos(model: SentenceTransformer) -> bool:
    """Tell whether the model takes videos."""
    return any("video" in ([each] if isinstance(each, str) else each) for each in model.modalities)


def model_name_of(model: SentenceTransformer) -> str:
    """Return a model's name in results, as far as it knows where it is from; see `name_of_source`."""
    backbone = getattr(model[0], "model", None)
    if getattr(backbone, "peft_config", None):  # transformers tells where its base is from
        return "local/unnamed"
    source = model.model_card_data.model_id or getattr(backbone, "name_or_path", None)
    return name_of_source(source) if source else "local/unnamed"


def name_of_source(source: str | Path) -> str:
    """Return the name in results of what is loaded from here: that of the Hub, or `local/<folder>`, `local/<run>`."""
    text = str(source)
    is_hub_id = text.count("/") == 1 and not Path(text).exists() and not text.startswith(("/", "."))
    return text if is_hub_id else f"local/{folder_name(text)}"


def _model_meta(model: SentenceTransformer, name: str, revision: str) -> ModelMeta:
    similarity = model.similarity_fn_name
    return ModelMeta.create_empty(
        {
            "name": name,
            "revision": revision,
            "loader": Embedder,
            "modalities": modalities_of(model) + ["video"] * takes_videos(model),
            "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "max_tokens": model.max_seq_length,
            "embed_dim": model.get_embedding_dimension(),
            "similarity_fn_name": ScoringFunction.from_str(similarity) if similarity else ScoringFunction.COSINE,
            "framework": ["Sentence Transformers", "PyTorch"],
            "use_instructions": any((model.prompts or {}).values()),
        }
    )
