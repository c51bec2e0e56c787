"""Pre-train ``saha-tiny-base`` from nothing: ``python -m saha_st.quickstart.pretrain OUTPUT_DIR``.

A small Qwen2-VL learns next-token prediction on generated scenes: captions, answers to questions, names in one word.
There is no contrastive loss here: the result is a generator, as the models are that this package turns into embedders.
Everything is drawn from the seed while training goes on, so no data set is stored and no picture is seen twice.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch
import torch.distributed as dist
from torch.nn.functional import linear
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from saha_st.data.scenes import language
from saha_st.data.scenes.scene import sample_scene
from saha_st.data.scenes.subsets import instructions
from saha_st.quickstart.answering import answer_held_out_questions, write_card
from saha_st.quickstart.lessons import DEFAULT_SYSTEM, ONE_WORD_SYSTEM, sample_lesson
from saha_st.quickstart.packing import Batch, LessonPacker
from saha_st.quickstart.tiny_model import build_model, build_processor, train_tokenizer

logger = logging.getLogger(__name__)

LOG_FILE = "pretraining.jsonl"


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of a pre-training run.

    Args:
        output_dir: Folder for the model; created where it does not exist, and empty where it does.
        steps: Optimiser steps.
        images: Lessons on pictures in a step; at least one for each process.
        texts: Lessons on texts in a step.
        learning_rate: Peak of the cosine schedule.
        warmup_steps: Steps of linear warm-up.
        weight_decay: Of AdamW.
        seed: Of weights and lessons.
        questions: Held-out questions per topic to ask at the end.
        compile: Compile the language layers (needs a C++ compiler; a third faster).
        bf16: Compute matrix products in bfloat16; weights and gradients stay float32.
        checkpoint_every: Steps between saves of the unfinished model; 0 for none.

    Raises:
        ValueError: If a count or rate is not positive.
    """

    output_dir: Path
    steps: int = 4500
    images: int = 32
    texts: int = 12
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    weight_decay: float = 0.05
    seed: int = 0
    questions: int = 100
    compile: bool = False
    bf16: bool = True
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        for name in ("steps", "images", "texts", "learning_rate", "warmup_steps", "questions"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}.")


def pretrain(config: PretrainConfig) -> dict[str, object]:
    """Build, train, examine and save the model.

    Returns:
        What was done and reached: settings, parameters, wall time and the accuracy per topic, as logged.

    Raises:
        FileExistsError: ``output_dir`` is not empty.
        ValueError: There are more processes than pictures in a step.
    """
    _require_startable(config)
    processor = build_processor(train_tokenizer(tokenizer_corpus(config.seed)))
    model = build_model(processor.tokenizer, seed=config.seed)
    config.output_dir.mkdir(parents=True, exist_ok=True)
    if dist.is_initialized():
        dist.barrier()  # no process writes before all have found the folder empty
    started = time.perf_counter()
    _train(model, processor, config)
    seconds = time.perf_counter() - started
    _save(model, processor, config.output_dir)
    if _rank()[0] != 0:
        return {}
    # What is examined is what was saved, loaded as any user loads it, without what training speeds up.
    model = Qwen2VLForConditionalGeneration.from_pretrained(config.output_dir)
    processor = Qwen2VLProcessor.from_pretrained(config.output_dir)
    accuracy = answer_held_out_questions(model, processor, per_topic=config.questions)
    record = {
        "event": "done",
        **{key: value for key, value in asdict(config).items() if key not in ("output_dir", "checkpoint_every")},
        "parameters": model.num_parameters(),
        "vocabulary": len(processor.tokenizer),
        "threads": torch.get_num_threads(),
        "processes": _rank()[1],
        "command": _command(config),
        "seconds": round(seconds),
        "accuracy": accuracy,
    }
    _log(config, record)
    write_card(config.output_dir, record)
    return record


def _require_startable(config: PretrainConfig) -> None:
    """See that the log begins with this run, and that each process gets a picture, which the vision tower needs."""
    folder, processes = config.output_dir, _rank()[1]
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"output_dir={str(folder)!r} exists and is not empty; its log would mix two runs. Name a new folder."
        )
    if config.images < processes:
        raise ValueError(
            f"images must be at least 1 per process; got {config.images} for {processes} processes. "
            "Raise images, or start fewer processes."
        )


def tokenizer_corpus(seed: int, *, scenes: int = 4000) -> Iterator[str]:
    """Texts as the model meets them: lessons, the instructions of mini-MMEB, and both levels of the prompt."""
    rng = Random(f"tokenizer-{seed}")
    for _ in range(scenes):
        scene = sample_scene(rng, held_out=False)
        yield language.caption(scene, rng)
        lesson = sample_lesson(rng, with_image=bool(rng.getrandbits(1)))
        for exchange in lesson.exchanges:
            yield f"{exchange.tail}\n"
            yield exchange.answer
            yield from exchange.first_words
    for _ in range(50):
        yield from (f"system\n{ONE_WORD_SYSTEM}", f"system\n{DEFAULT_SYSTEM}", "user\n", "assistant\n")
        yield from instructions()


def _command(config: PretrainConfig) -> str:
    """The command line that repeats the run, without its output folder."""
    threads, processes = torch.get_num_threads(), _rank()[1]
    launcher = f"torch.distributed.run --nproc_per_node {processes} -m " if processes > 1 else ""
    names = ("steps", "images", "texts", "learning_rate", "warmup_steps", "weight_decay", "seed")
    flags = [f"--{name} {getattr(config, name)}" for name in names] + [f"--threads {threads}"]
    switches = ["--compile"] * config.compile + ["--no-bf16"] * (not config.bf16)
    return " ".join([f"python -m {launcher}saha_st.quickstart.pretrain OUTPUT_DIR", *flags, *switches])


def _train(model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor, config: PretrainConfig) -> None:
    packer = LessonPacker(processor)
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    plain = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config))
    _quicken(model, compile_layers=config.compile)
    rank, ranks = _rank()
    model.train()
    started, running = time.perf_counter(), 0.0
    for step in range(1, config.steps + 1):
        rng = Random(f"{config.seed}-{step}")
        lessons = [
            sample_lesson(rng, with_image=index < config.images) for index in range(config.images + config.texts)
        ]
        batch = packer(lessons[rank::ranks])
        with _autocast(config.bf16):
            loss = lesson_loss(model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        weight = _sum_over_ranks(model, batch.weight.sum())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        now = loss.item() * ranks / weight
        running = now if step == 1 else 0.98 * running + 0.02 * now
        if step % 50 == 0 or step == config.steps:
            _log(config, {"step": step, "loss": round(running, 4), "seconds": round(time.perf_counter() - started)})
        if config.checkpoint_every and step % config.checkpoint_every == 0:
            _save(model, processor, config.output_dir)


def lesson_loss(model: Qwen2VLForConditionalGeneration, batch: Batch) -> torch.Tensor:
    """Weighted sum of the next-token losses that the batch names; logits are computed at those places only."""
    hidden = model.model(**batch.inputs, use_cache=False).last_hidden_state  # (rows, length, dim)
    places, place_of_target = torch.unique(batch.at, return_inverse=True)
    log_probabilities = model.lm_head(hidden.flatten(0, 1)[places]).float().log_softmax(-1)  # (places, vocabulary)
    return -(log_probabilities[place_of_target, batch.token] * batch.weight).sum()


def _quicken(model: Qwen2VLForConditionalGeneration, *, compile_layers: bool) -> None:
    """Same function, fewer seconds on a CPU: plain attention, and a product instead of the patch convolution."""
    for part in (model.model.language_model, model.model.visual):
        part.config._attn_implementation = "eager"
    embed = model.model.visual.patch_embed
    # The convolution's kernel is as large as its input, so that it is a matrix product.
    embed.forward = lambda patches: linear(patches, embed.proj.weight.flatten(1), embed.proj.bias)
    if compile_layers:
        for layer in model.model.language_model.layers:
            layer.compile(dynamic=False)


def _rank() -> tuple[int, int]:
    """This process's rank and the number of processes; (0, 1) outside torchrun."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _sum_over_ranks(model: Qwen2VLForConditionalGeneration, weight: torch.Tensor) -> float:
    """Turn every rank's gradient of its summed loss into that of the mean over the whole batch; return its weight."""
    gradients = [parameter.grad for parameter in model.parameters()]
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), weight[None]])
    if dist.is_initialized():
        dist.all_reduce(flat)
    for gradient, summed in zip(gradients, flat[:-1].split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_((summed / flat[-1]).view_as(gradient))
    return flat[-1].item()


def _rate(step: int, config: PretrainConfig) -> float:
    """Linear warm-up, then a cosine down to nearly nothing."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _autocast(bf16: bool) -> AbstractContextManager:
    return torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else nullcontext()


def _save(model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor, folder: Path) -> None:
    if _rank()[0] != 0:
        return
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _log(config: PretrainConfig, record: dict[str, object]) -> None:
    if _rank()[0] != 0:
        return
    logger.info("%s", json.dumps(record))
    with (config.output_dir / LOG_FILE).open("a", encoding="utf-8") as log:
        log.write(f"{json.dumps(record)}\n")


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and pre-train."""
    parser = argparse.ArgumentParser(prog="python -m saha_st.quickstart.pretrain", description=__doc__.split("\n")[0])
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--threads", type=int, default=None, help="threads of torch (default: torch's own choice)")
    defaults = PretrainConfig(Path())
    for name in ("steps", "images", "texts", "warmup_steps", "seed", "questions", "checkpoint_every"):
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name))
    for name in ("learning_rate", "weight_decay"):
        parser.add_argument(f"--{name}", type=float, default=getattr(defaults, name))
    parser.add_argument("--compile", action="store_true", help="compile the language layers (needs a C++ compiler)")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=defaults.bf16)
    options = vars(parser.parse_args(arguments))
    threads = options.pop("threads")
    if threads:
        torch.set_num_threads(threads)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    pretrain(PretrainConfig(**options))
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
