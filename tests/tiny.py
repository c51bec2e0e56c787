"""A random multimodal LLM of the real Qwen2-VL architecture, small enough to build in a second.

Nothing is downloaded: the tokenizer is trained here on a few sentences, the weights come from a seed.
Weights are scaled up so that different inputs give clearly different vectors.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from saha_st.quickstart.tiny_model import (
    CHAT_TEMPLATE,
    IMAGE_TOKEN,
    MAX_LENGTH,
    PAD,
    SPECIAL_TOKENS,
    TURN_END,
    VIDEO_TOKEN,
    VISION_END,
    VISION_START,
)

CORPUS = (
    "Given an image, summarize the provided image in one word. Given only text, describe the text in one word.",
    "Represent the given text in one word. Represent the given text/image in one word.",
    "a red circle, a blue square and a green triangle in the picture, left of two yellow stars",
    "system user assistant You are a helpful assistant. What is shown here? How many are there?",
)

VISION = {"patch_size": 8, "temporal_patch_size": 2}
MERGE_SIZE = 2


def build_tiny_mllm(folder: Path, *, seed: int = 0, hidden_size: int = 32, layers: int = 2) -> Path:
    """Write a random Qwen2-VL (generative, with processor and chat template) to ``folder`` and return it."""
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    Qwen2VLForConditionalGeneration(_config(tokenizer, hidden_size, layers)).save_pretrained(folder)
    _processor(tokenizer).save_pretrained(folder)
    return Path(folder)


def build_tokenizer() -> Qwen2Tokenizer:
    """A tokenizer trained on a few sentences, with the special tokens of Qwen2-VL."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(CORPUS, trainer)
    return Qwen2Tokenizer(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=TURN_END,
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        model_max_length=MAX_LENGTH,
    )


def _processor(tokenizer: Qwen2Tokenizer) -> Qwen2VLProcessor:
    pixels = {"shortest_edge": 4 * 8 * 8, "longest_edge": 256 * 16 * 16}
    vision = {"size": pixels, "merge_size": MERGE_SIZE, **VISION}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**vision),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**vision),
        chat_template=CHAT_TEMPLATE,
    )


def _config(tokenizer: Qwen2Tokenizer, hidden_size: int, layers: int) -> Qwen2VLConfig:
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    return Qwen2VLConfig(
        text_config=_text_config(len(tokenizer), ids, hidden_size, layers),
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": hidden_size,
            "num_heads": 2,
            "mlp_ratio": 2,
            "spatial_merge_size": MERGE_SIZE,
            "initializer_range": 0.2,
            **VISION,
        },
        image_token_id=ids[IMAGE_TOKEN],
        video_token_id=ids[VIDEO_TOKEN],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        tie_word_embeddings=True,
    )


def _text_config(vocabulary: int, ids: dict[str, int], hidden_size: int, layers: int) -> dict[str, object]:
    sixth = hidden_size // 2 // 6  # of a head; the sections add up to half a head
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": MAX_LENGTH,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [hidden_size // 4 - 2 * sixth, sixth, sixth],
        },
        "bos_token_id": ids[PAD],
        "eos_token_id": ids[TURN_END],
        "pad_token_id": ids[PAD],
        "initializer_range": 0.2,
    }
