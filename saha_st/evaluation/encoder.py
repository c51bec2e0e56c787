"""A Sentence Transformer as mteb's encoder, without the losses of mteb's own wrapper.

That wrapper tells mteb that every model is for text alone, so that images are dropped; it encodes documents with their
ends stripped; it hands over images that are `None`, and texts as bare strings. None of this fails, all of it changes
scores. Here a cell reaches `encode_query` or `encode_document` as it stands in the data, image first, and each
distinct one is decoded and encoded once per run.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    Task,
    VectorStore,
    encode_distinct,
    encode_function,
    encode_or_name,
    vector_fingerprint,
    weights_digest,
)
from saha_st.evaluation.inputs import inputs_of
from saha_st.evaluation.mmeb import UNDEFINED
from saha_st.prompts import HierarchicalPrompt
from saha_st.ranks import Ranks

_MODALITIES = ("image", "text")
_SAME = 1e-6  # what batches of other lengths make of equal inputs in float32 is smaller


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
        show_progress_bar: Show a bar for each side of each task.

    Attributes:
        vectors_of: For the tasks that were encoded, what tells whether their vectors are worth scoring.

    Raises:
        ValueError: Several processes without a `cache_folder`.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        name: str | None = None,
        revision: str | None = None,
        cache_folder: str | Path | None = None,
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
        self.fingerprint = vector_fingerprint(model, weights=self._weights)
        self.mteb_model_meta = _model_meta(model, name or model_name_of(model), revision or self.fingerprint)
        self.vectors_of: dict[str, VectorCheck] = {}
        self._cache_folder = cache_folder
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
        batch_size: int = 32,
        **kwargs: Any,
    ) -> np.ndarray:
        """Encode one side of a task; shape (rows, dim), float32.

        Raises:
            ValueError: A row that cannot be encoded, with its number and the task.
        """
        role, prompt = self._role(task_metadata, prompt_type), self._prompt(task_metadata, prompt_type)
        title = f"{task_metadata.name}, {prompt_type.value if prompt_type else 'input'}"
        found = inputs_of(inputs.dataset, prompt_type)
        distinct, store = DistinctInputs.of_keys(found.keys), self._store(role, prompt)
        encode = encode_function(self.model, task=role, prompt=prompt, batch_size=batch_size)
        encode_distinct(
            distinct,
            store,
            lambda rows: encode_or_name(found.read, rows, encode, lambda row: f"{title} {row}"),
            batch_size=batch_size,
            title=title,
            show_progress_bar=self._show_progress_bar and self._ranks.is_main,
            ranks=self._ranks,
        )
        vectors = store.get(distinct.keys)
        self.vectors_of.setdefault(task_metadata.name, VectorCheck()).add(vectors)
        return vectors[distinct.index_of_row]

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Return the similarities of all pairs; shape (first, second).

        The cosines of one vector with a list of candidates, as in MMEB, are such that equal candidates get equal
        values to the last bit (a matrix product does not promise that, and ties count as hits); what is not a number
        becomes `UNDEFINED`.
        """
        one_with_many = np.ndim(embeddings1) == np.ndim(embeddings2) == 2 and len(embeddings1) == 1
        if not one_with_many or self.mteb_model_meta.similarity_fn_name is not ScoringFunction.COSINE:
            return torch.as_tensor(super().similarity(embeddings1, embeddings2))
        cosines = cosine_with_each(np.asarray(embeddings1).reshape(-1), np.asarray(embeddings2))
        return torch.from_numpy(np.where(np.isfinite(cosines), cosines, UNDEFINED)).unsqueeze(0)

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


@dataclass
class VectorCheck:
    """What the vectors of a task say about its score: whatever is computed from equal vectors is none.

    Attributes:
        inputs: Number of distinct inputs.
        undefined: How many of their vectors hold something that is not a number.
        collapsed: Whether one side of the task has several inputs, all with the same vector.
    """

    inputs: int = 0
    undefined: int = 0
    collapsed: bool = False

    def add(self, vectors: np.ndarray) -> None:
        """Look at the vectors of distinct inputs, shape (inputs, dim)."""
        self.inputs += len(vectors)
        self.undefined += int((~np.isfinite(vectors).all(axis=1)).sum())
        if len(vectors) > 1:
            spread = (vectors.max(axis=0) - vectors.min(axis=0)).max()
            self.collapsed |= bool(spread <= _SAME)  # false for what is not a number


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


def model_name_of(model: SentenceTransformer) -> str:
    """Return a model's name in results: `organisation/name` of the Hub, or `local/<folder>`."""
    source = model.model_card_data.model_id or getattr(getattr(model[0], "auto_model", None), "name_or_path", None)
    if not source:
        return "local/unnamed"
    is_hub_id = str(source).count("/") == 1 and not Path(source).exists() and not str(source).startswith(("/", "."))
    return str(source) if is_hub_id else f"local/{Path(source).resolve().name}"


def _model_meta(model: SentenceTransformer, name: str, revision: str) -> ModelMeta:
    similarity = model.similarity_fn_name
    return ModelMeta.create_empty(
        {
            "name": name,
            "revision": revision,
            "loader": Embedder,
            "modalities": modalities_of(model),
            "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "max_tokens": model.max_seq_length,
            "embed_dim": model.get_embedding_dimension(),
            "similarity_fn_name": ScoringFunction.from_str(similarity) if similarity else ScoringFunction.COSINE,
            "framework": ["Sentence Transformers", "PyTorch"],
            "use_instructions": any((model.prompts or {}).values()),
        }
    )
