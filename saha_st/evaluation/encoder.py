"""A Sentence Transformer as mteb's encoder, without the losses of mteb's own wrapper.

That wrapper tells mteb that every model is for text alone, so that images are dropped; it encodes documents with their
ends stripped; it hands over images that are `None`, and texts as bare strings. None of this fails, all of it changes
scores. Here a cell reaches `encode_query` or `encode_document` as it stands in the data, image first, and each
distinct one is decoded and encoded once per run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from mteb.models.abs_encoder import AbsEncoder, get_prompt_name
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import PromptType
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from saha_st.encoding import SHARD_SIZE, VectorStore, vector_fingerprint
from saha_st.evaluation.inputs import Inputs, inputs_of
from saha_st.evaluation.mmeb import UNDEFINED
from saha_st.prompts import HierarchicalPrompt

Role = Literal["query", "document"] | None
EncodeFunction = Callable[[list[dict[str, Any]]], np.ndarray]

_MODALITIES = ("image", "text")


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
            as long as this object lives.
        show_progress_bar: Show a bar for each side of each task.
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
        self.model = model
        self.model_prompts = dict(model.prompts or {})
        self.mteb_model_meta = _model_meta(model, name or _name_of(model), revision or vector_fingerprint(model))
        self._cache_folder = cache_folder
        self._show_progress_bar = show_progress_bar
        self._stores: dict[tuple[Role, str | None], VectorStore] = {}

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
        keys, first_row, index_of_row = np.unique(found.keys, return_index=True, return_inverse=True)
        store = self._store(role, prompt)
        missing = np.sort(first_row[~store.contains(keys)])
        encode = self._encode_function(role, prompt, batch_size)
        with tqdm(total=len(missing), desc=title, leave=False, disable=not self._show_progress_bar) as bar:
            for shard in _chunks(missing, SHARD_SIZE):
                vectors = []
                for rows in _chunks(shard, 8 * batch_size):  # decoded images are held for so many rows at a time
                    vectors.append(_encode_rows(found, rows, encode, title))
                    bar.update(len(rows))
                store.add(found.keys[shard], np.concatenate(vectors))
        return store.get(keys)[index_of_row]

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

    def _role(self, task_metadata: Any, prompt_type: PromptType | None) -> Role:
        if prompt_type is None:
            return "query" if has_hierarchical_prompt(self.model) else None
        if prompt_type is PromptType.document and not getattr(task_metadata, "targets_as_queries", False):
            return "document"
        return "query"

    def _prompt(self, task_metadata: Any, prompt_type: PromptType | None) -> str | None:
        """Return the prompt that the model has for this very task, or `None` for that of the role."""
        name = get_prompt_name(self.model_prompts, task_metadata, prompt_type)
        return None if name in (None, "query", "document") else self.model_prompts[name]

    def _store(self, role: Role, prompt: str | None) -> VectorStore:
        if (role, prompt) not in self._stores:
            in_memory = self._cache_folder is None
            fingerprint = "" if in_memory else vector_fingerprint(self.model, task=role, prompt=prompt)
            self._stores[role, prompt] = VectorStore(self._cache_folder, fingerprint)
        return self._stores[role, prompt]

    def _encode_function(self, role: Role, prompt: str | None, batch_size: int) -> EncodeFunction:
        model = self.model
        encode = {"query": model.encode_query, "document": model.encode_document, None: model.encode}[role]
        options = {"batch_size": batch_size, "show_progress_bar": False} | (
            {} if prompt is None else {"prompt": prompt}
        )
        return lambda inputs: np.asarray(encode(inputs, **options), dtype=np.float32)


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


def _encode_rows(inputs: Inputs, rows: np.ndarray, encode: EncodeFunction, title: str) -> np.ndarray:
    """Encode some rows; what fails is named."""
    try:
        cells = inputs.read(rows)
    except OSError as error:  # an image that is none, of which Pillow names the file
        raise ValueError(f"{title}: {error}. Replace the file, or leave out the rows that have it.") from error
    try:
        return encode(cells)
    except ValueError as error:  # names a place in a batch that was sorted: find the row, one by one
        for row, cell in zip(rows, cells, strict=True):
            try:
                encode([cell])
            except ValueError as reason:
                message = str(reason).removeprefix("Input 0 of the batch: ")
                raise ValueError(f"{title} {row}: {message}") from error
        raise


def _name_of(model: SentenceTransformer) -> str:
    """Return `organisation/name` of the Hub, or `local/<folder>`."""
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


def _chunks(array: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (array[start : start + size] for start in range(0, len(array), size))
