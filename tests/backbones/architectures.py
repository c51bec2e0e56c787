"""Every architecture of the table "Backbones", random and tiny: the real classes, a tokenizer trained here.

Nothing is downloaded. Weights are drawn anew, with a spread that lets different inputs give clearly different vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import chat_templates
import torch
import transformers
from tiny import CORPUS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from saha_st.quickstart import tiny_model

MAX_LENGTH = 2048
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": MAX_LENGTH,
}
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
GAIN = 3.0
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
QWEN_TOKENS = (*tiny_model.SPECIAL_TOKENS, "<think>", "</think>")


def build(name: str, folder: Path, *, seed: int = 0) -> Path:
    """Write the tiny model called ``name`` to ``folder``, with its processor and chat template, and return it."""
    torch.manual_seed(seed)
    config, processor = ARCHITECTURES[name]()
    is_visual = type(config) in AutoModelForImageTextToText._model_mapping
    model = (AutoModelForImageTextToText if is_visual else AutoModelForCausalLM).from_config(config)
    _spread(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Path(folder)


def _spread(model: nn.Module) -> None:
    """Draw all matrices so that every layer changes what goes through it much; in place."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=GAIN / math.sqrt(parameter[0].numel()))
    model.tie_weights()


def train_tokenizer(
    special: Sequence[str], *, pad: str, eos: str, adds_bos: bool = False, **names: Any
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a family's special tokens; ``names`` as ``extra_special_tokens`` has them."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(CORPUS, trainer)
    bos = {"bos_token": names.pop("bos_token")} if "bos_token" in names else {}
    if adds_bos:
        begin = (bos["bos_token"], bpe.token_to_id(bos["bos_token"]))
        bpe.post_processor = processors.TemplateProcessing(single=f"{begin[0]} $A", special_tokens=[begin])
    extra = {"extra_special_tokens": names} if names else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=pad, eos_token=eos, model_max_length=MAX_LENGTH, **bos, **extra
    )


def _config(model_type: str, tokenizer: Any, text: dict[str, Any], **settings: Any) -> Any:
    """A configuration with a language model for the tokenizer; settings ending in ``_id`` or ``_index`` are tokens."""
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id or tokenizer.pad_token_id,
    }
    text = TEXT | {"vocab_size": len(tokenizer)} | special | text
    settings = {
        key: tokenizer.convert_tokens_to_ids(value)
        if isinstance(value, str) and key.endswith(("_id", "_index"))
        else value
        for key, value in settings.items()
    }
    config_class = CONFIG_MAPPING[model_type]
    if "text_config" not in config_class.sub_configs:
        return config_class(**text, **settings)
    return config_class(text_config=text, tie_word_embeddings=True, **settings)


def _qwen(model_type: str, processor: str, video: str, text: dict[str, Any], **vision: Any) -> tuple[Any, Any]:
    tokenizer = train_tokenizer(QWEN_TOKENS, pad=tiny_model.PAD, eos=tiny_model.TURN_END)
    patches = {"patch_size": 8, "temporal_patch_size": 2}
    config = _config(
        model_type,
        tokenizer,
        {"rope_parameters": ROPE} | text,
        vision_config={"depth": 2, "num_heads": 2, "spatial_merge_size": 2, **patches, **vision},
        image_token_id=tiny_model.IMAGE_TOKEN,
        video_token_id=tiny_model.VIDEO_TOKEN,
        vision_start_token_id=tiny_model.VISION_START,
        vision_end_token_id=tiny_model.VISION_END,
    )
    settings = {"size": {"shortest_edge": 4 * 256, "longest_edge": 64 * 256}, "merge_size": 2, **patches}
    made = getattr(transformers, processor)(
        image_processor=transformers.Qwen2VLImageProcessor(**settings),
        tokenizer=tokenizer,
        video_processor=getattr(transformers, video)(**settings),
        chat_template=tiny_model.CHAT_TEMPLATE,
    )
    return config, made


def qwen2_vl() -> tuple[Any, Any]:
    vision = {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
    return _qwen("qwen2_vl", "Qwen2VLProcessor", "Qwen2VLVideoProcessor", {}, **vision)


def qwen2_5_vl() -> tuple[Any, Any]:
    sizes = {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 48}
    windows = {"window_size": 32, "fullatt_block_indexes": [1]}
    return _qwen("qwen2_5_vl", "Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor", {}, **sizes, **windows)


_QWEN3_VISION = {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 48, "num_position_embeddings": 64}
_LINEAR = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
}


def qwen3_vl() -> tuple[Any, Any]:
    vision = _QWEN3_VISION | {"deepstack_visual_indexes": [0]}
    return _qwen("qwen3_vl", "Qwen3VLProcessor", "Qwen3VLVideoProcessor", {}, **vision)


def qwen3_5() -> tuple[Any, Any]:
    text = _LINEAR | {"layer_types": ["linear_attention", "full_attention"]}
    text["rope_parameters"] = ROPE | {"partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]}
    return _qwen("qwen3_5", "Qwen3VLProcessor", "Qwen3VLVideoProcessor", text, **_QWEN3_VISION)


def qwen4_exp() -> tuple[Any, Any]:
    text = _LINEAR | {"layer_types": ["linear_attention", "indexed_attention"], "hc_count": 2, "hc_lowrank": 8}
    text |= {"moe_intermediate_size": 24, "shared_expert_intermediate_size": 24}
    text |= {"num_experts": 4, "num_experts_per_tok": 2, "hidden_act": "silu"}
    text |= {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16}
    text |= {"indexer_budget": 32, "indexer_compress_ratio": 4}
    text["rope_parameters"] = ROPE | {"partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]}
    return _qwen("qwen4_exp", "Qwen3VLProcessor", "Qwen3VLVideoProcessor", text, **_QWEN3_VISION)


def _tiled(model_type: str, processor: Callable[[Any], Any]) -> tuple[Any, Any]:
    tiles = [f"<row_{row + 1}_col_{column + 1}>" for row in range(6) for column in range(6)]
    special = [
        "<|im_end|>",
        "<|im_start|>",
        "<end_of_utterance>",
        "<image>",
        "<fake_token_around_image>",
        "<global-img>",
    ]
    tokenizer = train_tokenizer(
        [*special, *tiles], pad="<|im_end|>", eos="<end_of_utterance>", bos_token="<|im_start|>"
    )
    config = _config(
        model_type,
        tokenizer,
        {"model_type": "llama"},
        vision_config=TOWER | {"image_size": 32, "patch_size": 8},
        image_token_id="<image>",
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    return config, processor(tokenizer)


def smolvlm() -> tuple[Any, Any]:
    edges = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}

    def processor(tokenizer: Any) -> Any:
        return transformers.SmolVLMProcessor(
            image_processor=transformers.SmolVLMImageProcessor(**edges),
            tokenizer=tokenizer,
            video_processor=transformers.SmolVLMVideoProcessor(**edges),
            image_seq_len=4,
            chat_template=chat_templates.SMOLVLM,
        )

    return _tiled("smolvlm", processor)


def idefics3() -> tuple[Any, Any]:
    edges = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}

    def processor(tokenizer: Any) -> Any:
        image_processor = transformers.Idefics3ImageProcessor(**edges)
        return transformers.Idefics3Processor(
            image_processor, tokenizer, image_seq_len=4, chat_template=chat_templates.SMOLVLM
        )

    return _tiled("idefics3", processor)


def llava_next() -> tuple[Any, Any]:
    special = ("<s>", "</s>", "<pad>", "<image>", "[INST]", "[/INST]")
    named = {"bos_token": "<s>", "image_token": "<image>"}
    tokenizer = train_tokenizer(special, pad="<pad>", eos="</s>", adds_bos=True, **named)
    grids = [[32, 64], [64, 32], [64, 64]]
    config = _config(
        "llava_next",
        tokenizer,
        {"model_type": "mistral"},
        vision_config=TOWER | {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8},
        image_token_index="<image>",
        image_grid_pinpoints=grids,
        image_seq_length=16,
    )
    edges = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    processor = transformers.LlavaNextProcessor(
        transformers.LlavaNextImageProcessor(image_grid_pinpoints=grids, **edges),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_templates.LLAVA_NEXT,
    )
    return config, processor


def llava_onevision() -> tuple[Any, Any]:
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
    named = {"image_token": "<image>", "video_token": "<video>"}
    tokenizer = train_tokenizer(special, pad="<|endoftext|>", eos="<|im_end|>", **named)
    grids = [[32 * rows, 32 * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)]
    config = _config(
        "llava_onevision",
        tokenizer,
        {"model_type": "qwen2"},
        vision_config=TOWER
        | {"model_type": "siglip_vision_model", "image_size": 32, "patch_size": 8, "vision_use_head": False},
        image_token_index="<image>",
        video_token_index="<video>",
        image_grid_pinpoints=grids,
    )
    edges = {"size": {"height": 32, "width": 32}}
    processor = transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(image_grid_pinpoints=grids, **edges),
        tokenizer=tokenizer,
        video_processor=transformers.LlavaOnevisionVideoProcessor(**edges),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=chat_templates.LLAVA_ONEVISION,
    )
    return config, processor


def internvl() -> tuple[Any, Any]:
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>")
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = train_tokenizer(special, pad="<|endoftext|>", eos="<|im_end|>", **named)
    config = _config(
        "internvl",
        tokenizer,
        {"model_type": "qwen2"},
        vision_config=TOWER | {"image_size": [32, 32], "patch_size": [8, 8]},
        image_token_id="<IMG_CONTEXT>",
        image_seq_length=4,
    )
    edges = {"size": {"height": 32, "width": 32}}
    processor = transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(max_patches=4, **edges),
        tokenizer=tokenizer,
        video_processor=transformers.InternVLVideoProcessor(**edges),
        image_seq_length=4,
        chat_template=chat_templates.INTERNVL,
    )
    return config, processor


_SIGLIP = TOWER | {"model_type": "siglip_vision_model", "image_size": 32, "patch_size": 8, "vision_use_head": False}


def gemma3() -> tuple[Any, Any]:
    special = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = train_tokenizer(
        [*special, *named.values()], pad="<pad>", eos="<eos>", adds_bos=True, bos_token="<bos>", **named
    )
    config = _config(
        "gemma3",
        tokenizer,
        {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 16},
        vision_config=_SIGLIP,
        mm_tokens_per_image=4,
        boi_token_index="<start_of_image>",
        eoi_token_index="<end_of_image>",
        image_token_index="<image_soft_token>",
    )
    processor = transformers.Gemma3Processor(
        transformers.Gemma3ImageProcessor(size={"height": 32, "width": 32}),
        tokenizer,
        image_seq_length=4,
        chat_template=chat_templates.GEMMA_3,
    )
    return config, processor


def gemma4() -> tuple[Any, Any]:
    special = ("<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>", "<|video|>")
    named = {"boi_token": "<|image>", "eoi_token": "<image|>", "image_token": "<|image|>"}
    named |= {"boa_token": "<|audio>", "eoa_token": "<audio|>", "audio_token": "<|audio|>"}
    tokenizer = train_tokenizer(
        [*special, *named.values()], pad="<pad>", eos="<eos>", adds_bos=True, bos_token="<bos>", **named
    )
    text = {
        "sliding_window": 24,
        "layer_types": ["sliding_attention", "full_attention"],
        "global_head_dim": 16,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": len(tokenizer),
        "use_bidirectional_attention": "vision",
    }
    config = _config(
        "gemma4",
        tokenizer,
        text,
        vision_config=TOWER | {"num_key_value_heads": 2, "head_dim": 16, "patch_size": 8, "pooling_kernel_size": 2},
        image_token_id="<|image|>",
        video_token_id="<|video|>",
        boi_token_id="<|image>",
        eoi_token_id="<image|>",
    )
    pooled = {"patch_size": 8, "pooling_kernel_size": 2, "max_soft_tokens": 140}
    processor = transformers.Gemma4Processor(
        transformers.Gemma4AudioFeatureExtractor(),
        transformers.Gemma4ImageProcessor(**pooled),
        tokenizer,
        transformers.Gemma4VideoProcessor(**pooled | {"max_soft_tokens": 70}),
        image_seq_length=140,
        chat_template=chat_templates.GEMMA_4,
    )
    return config, processor


def paligemma() -> tuple[Any, Any]:
    special = ("<pad>", "<eos>", "<bos>", "<image>")
    tokenizer = train_tokenizer(special, pad="<pad>", eos="<eos>", bos_token="<bos>", image_token="<image>")
    image_processor = transformers.SiglipImageProcessor(size={"height": 32, "width": 32}, image_seq_length=16)
    image_processor.image_seq_length = 16
    processor = transformers.PaliGemmaProcessor(image_processor, tokenizer)
    config = _config(
        "paligemma",
        processor.tokenizer,
        {"model_type": "gemma"},
        vision_config=_SIGLIP,
        image_token_index="<image>",
        projection_dim=32,
        hidden_size=32,
    )
    return config, processor


def phi4_multimodal() -> tuple[Any, Any]:
    special = ("<|endoftext|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|image|>", "<|audio|>")
    named = {"image_token": "<|image|>", "audio_token": "<|audio|>"}
    tokenizer = train_tokenizer(special, pad="<|endoftext|>", eos="<|end|>", bos_token="<|endoftext|>", **named)
    sound = {"intermediate_size": 48, "num_blocks": 1, "ext_pw_out_channel": 32, "nemo_conv_channels": 32}
    config = _config(
        "phi4_multimodal",
        tokenizer,
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}},
        vision_config=TOWER | {"image_size": 32, "patch_size": 8, "crop_size": 32, "image_token_id": 5},
        audio_config={"hidden_size": 32, "num_attention_heads": 2, **sound, "audio_token_id": 6},
    )
    processor = transformers.Phi4MultimodalProcessor(
        transformers.Phi4MultimodalImageProcessor(size={"height": 32, "width": 32}, patch_size=8, dynamic_hd=4),
        transformers.Phi4MultimodalFeatureExtractor(),
        tokenizer,
        chat_template=chat_templates.PHI_4,
    )
    return config, processor


def llama() -> tuple[Any, Any]:
    special = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    named = {"bos_token": "<|begin_of_text|>"}
    tokenizer = train_tokenizer(special, pad="<|end_of_text|>", eos="<|eot_id|>", adds_bos=True, **named)
    tokenizer.chat_template = chat_templates.LLAMA_3
    return _config("llama", tokenizer, {}), tokenizer


def _chatml(model_type: str) -> tuple[Any, Any]:
    tokenizer = train_tokenizer(("<|endoftext|>", "<|im_start|>", "<|im_end|>"), pad="<|endoftext|>", eos="<|im_end|>")
    tokenizer.chat_template = chat_templates.CHATML
    return _config(model_type, tokenizer, {}), tokenizer


def qwen2() -> tuple[Any, Any]:
    return _chatml("qwen2")


def qwen3() -> tuple[Any, Any]:
    return _chatml("qwen3")


ARCHITECTURES: dict[str, Callable[[], tuple[Any, Any]]] = {
    builder.__name__: builder
    for builder in (
        qwen2_vl,
        qwen2_5_vl,
        qwen3_vl,
        qwen3_5,
        qwen4_exp,
        smolvlm,
        idefics3,
        llava_next,
        llava_onevision,
        internvl,
        gemma3,
        gemma4,
        paligemma,
        phi4_multimodal,
        llama,
        qwen2,
        qwen3,
    )
}
"""By model type: what makes a configuration and a processor."""
