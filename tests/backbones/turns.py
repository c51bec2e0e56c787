"""What each family's prompt must look like, written out by hand: the text that the tokenizer reads, byte for byte."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Turns:
    """A conversation of a system text and a user text, the answer begun.

    Attributes:
        format: With the fields ``system`` and ``user``.
        image: What stands for a picture in front of the user's text.
        is_trimmed: Whether the template trims texts at their ends.
        user: How the user's content begins where it is not a picture.
    """

    format: str
    image: str = ""
    is_trimmed: bool = False
    user: str = ""

    def render(self, system: str, text: str, *, images: int = 0) -> str:
        if self.is_trimmed:
            system, text = system.strip(), text.strip()
        user = (self.image * images if images else self.user) + text
        return self.format.format(system=system, user=user)


_CHATML = "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
_QWEN = Turns(_CHATML, "<|vision_start|><|image_pad|><|vision_end|>")
_TILED = Turns(
    "<|im_start|>System: {system}<end_of_utterance>\nUser:{user}<end_of_utterance>\nAssistant:", "<image>", user=" "
)

TURNS = {
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    "qwen3_vl": _QWEN,
    "qwen3_5": _QWEN,
    "qwen4_exp": _QWEN,
    "smolvlm": _TILED,
    "idefics3": _TILED,
    "llava_next": Turns("<<SYS>>\n{system}\n<</SYS>>\n\n[INST] {user} [/INST]", "<image>\n"),
    "llava_onevision": Turns(
        "<|im_start|>system {system}<|im_end|><|im_start|>user {user}<|im_end|><|im_start|>assistant\n", "<image>\n"
    ),
    "internvl": Turns(_CHATML, "<IMG_CONTEXT>\n"),
    "gemma3": Turns(
        "<bos><start_of_turn>user\n{system}\n\n{user}<end_of_turn>\n<start_of_turn>model\n",
        "<start_of_image>",
        is_trimmed=True,
    ),
    "gemma4": Turns(
        "<bos><|turn>system\n{system}<turn|>\n<|turn>user\n{user}<turn|>\n<|turn>model\n",
        "\n\n<|image|>\n\n",
        is_trimmed=True,
    ),
    "llama": Turns(
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n{user}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        is_trimmed=True,
    ),
    "qwen2": Turns(_CHATML),
    "qwen3": Turns(_CHATML),
}
