"""The architecture of ``saha-tiny-base``: Qwen2-VL, only smaller, with a tokenizer of its own.

Nothing here is special-cased anywhere else: the folder that ``build_tiny_base`` writes is read by ``transformers`` and
``sentence_transformers`` like any Qwen2-VL checkpoint, and its chat template renders what Qwen2-VL's own one renders.
A picture of 64 x 64 pixels is 8 x 8 patches and, after merging two by two, 16 image tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if loop.first and message.role != 'system' -%}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' or 'image' in part -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part.type == 'video' or 'video' in part -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- elif 'text' in part -%}
{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""

PAD, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_TOKEN, VIDEO_TOKEN = "<|image_pad|>", "<|video_pad|>"
SPECIAL_TOKENS = (PAD, TURN_START, TURN_END, VISION_START, VISION_END, IMAGE_TOKEN, VIDEO_TOKEN)

PATCH_SIZE = 8
MERGE_SIZE = 2
TEMPORAL_PATCH_SIZE = 2
VOCABULARY_SIZE = 900
MAX_LENGTH = 2048


def train_tokenizer(corpus: Iterable[str], *, vocabulary_size: int = VOCABULARY_SIZE) -> Qwen2Tokenizer:
    """Learn a byte-level BPE vocabulary: frequent words become one token, any other text still tokenises.

    Args:
        corpus: Texts in the form in which the model will meet them.
        vocabulary_size: Number of tokens, special ones included.

    Raises:
        ValueError: If the vocabulary cannot hold the 256 bytes and the special tokens.
    """
    smallest = 256 + len(SPECIAL_TOKENS)
    if vocabulary_size < smallest:
        raise ValueError(
            f"vocabulary_size must be at least {smallest} (bytes and special tokens); got {vocabulary_size}."
        )
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    # The split of Qwen2Tokenizer, which rebuilds it on loading: training with another one would learn unusable merges.
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus, trainer)
    return Qwen2Tokenizer(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=TURN_END,
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        model_max_length=MAX_LENGTH,
    )


def build_processor(tokenizer: Qwen2Tokenizer) -> Qwen2VLProcessor:
    """The processor around the tokenizer: pictures of 4 to 1,024 image tokens of 16 x 16 pixels each."""
    side = PATCH_SIZE * MERGE_SIZE
    pixels = {"shortest_edge": 4 * side * side, "longest_edge": 1024 * side * side}
    vision = {"patch_size": PATCH_SIZE, "merge_size": MERGE_SIZE, "temporal_patch_size": TEMPORAL_PATCH_SIZE}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=pixels, **vision),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=pixels, **vision),
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: Qwen2Tokenizer, *, seed: int = 0) -> Qwen2VLForConditionalGeneration:
    """The untrained model, in float32; the same weights for the same seed."""
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 160,
            "intermediate_size": 416,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": MAX_LENGTH,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 6, 6]},
            "bos_token_id": ids[PAD],
            "eos_token_id": ids[TURN_END],
            "pad_token_id": ids[PAD],
        },
        vision_config={
            "depth": 4,
            "embed_dim": 96,
            "hidden_size": 160,
            "num_heads": 4,
            "mlp_ratio": 3,
            "patch_size": PATCH_SIZE,
            "spatial_merge_size": MERGE_SIZE,
            "temporal_patch_size": TEMPORAL_PATCH_SIZE,
        },
        image_token_id=ids[IMAGE_TOKEN],
        video_token_id=ids[VIDEO_TOKEN],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        tie_word_embeddings=True,
        dtype="float32",
    )
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(config)
    # Greedy answers end at the turn's end, as in Qwen2-VL.
    model.generation_config.eos_token_id = ids[TURN_END]
    model.generation_config.pad_token_id = ids[PAD]
    return model
