"""Write a model the way every engine reads it.

Sentence Transformers saves the bare backbone (``Qwen2VLModel``). Servers look for the class that the base model was
published as (``Qwen2VLForConditionalGeneration``) and for its names of tensors, and `AutoModel` reads those just as
well; so that is what is written, in the layout of Sentence Transformers otherwise.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from saha_st.card.sidecars import ADAPTER_FOLDER

logger = logging.getLogger(__name__)


def export_model(model: SentenceTransformer, folder: str | Path) -> None:
    """Write a model without adapter: stock modules, the base's architecture and names of tensors.

    Args:
        model: The embedder, adapters merged.
        folder: Where to write; made if it is not there.
    """
    with _generative(model[0]):
        model.save_pretrained(str(folder))
    _state_pooling_twice(Path(folder))


def export_adapter(model: SentenceTransformer, folder: str | Path, *, base_model: str | None = None) -> None:
    """Write the adapter of a model to ``<folder>/adapter``.

    Args:
        model: The embedder, with the adapter in place.
        folder: The repository's folder.
        base_model: Hub id of the model that the adapter belongs on; a local folder is named without its parents.
    """
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch, create_model_card=False)
        place = Path(folder) / ADAPTER_FOLDER
        place.mkdir(parents=True, exist_ok=True)
        for file in Path(scratch).glob("adapter_*"):
            shutil.copy(file, place / file.name)
    path = place / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf8"))
    base = base_model or config["base_model_name_or_path"] or ""
    config["base_model_name_or_path"] = Path(base).name if Path(base).exists() else base
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf8")


@contextmanager
def _generative(transformer: Transformer) -> Iterator[None]:
    """Show the backbone inside the class that the base model was published as, while it is saved."""
    backbone = transformer.model
    whole = _generative_model(backbone)
    if whole is None:
        logger.warning(
            "%s has no generative class in transformers: its weights are written under the backbone's own names. "
            "Sentence Transformers and transformers read them; a server may not.",
            type(backbone).__name__,
        )
        yield
        return
    transformer.model = whole
    try:
        yield
    finally:
        transformer.model = backbone


def _generative_model(backbone: PreTrainedModel) -> PreTrainedModel | None:
    """The generative model around a backbone, without copying a weight; None if transformers has none."""
    for mapping in (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING):
        generative = mapping.get(type(backbone.config), None)
        if generative is not None:
            break
    else:
        return None
    with torch.device("meta"):
        whole = generative(backbone.config)
    name = whole.base_model_prefix
    if type(getattr(whole, name, None)) is not type(backbone):
        return None
    setattr(whole, name, backbone)
    whole.tie_weights()
    # An output layer of its own plays no part in embedding, and its weights were not loaded.
    if whole.get_output_embeddings() is not None and whole.get_output_embeddings().weight.is_meta:
        del whole.lm_head
    if any(tensor.is_meta for tensor in whole.state_dict().values()):
        return None
    return whole.eval()


def _state_pooling_twice(folder: Path) -> None:
    """Name the pooling as older readers expect it, too: vLLM passed over the new name until 2026 (vllm#45995)."""
    for path in folder.glob("*_Pooling/config.json"):
        config = json.loads(path.read_text(encoding="utf8"))
        if config.get("pooling_mode") == "lasttoken":
            config["pooling_mode_lasttoken"] = True
            path.write_text(json.dumps(config, indent=4) + "\n", encoding="utf8")
