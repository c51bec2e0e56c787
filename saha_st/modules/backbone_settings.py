"""What a backbone has to know of its processor's settings, also where only an adapter is saved.

LLaVA's processor cuts a picture into the best of some grids of tiles, and the backbone puts the tiles together by a
list of its own. A whole checkpoint has both lists. PEFT saves no configuration of the backbone: the base model's list
would come back, and no picture could be embedded. So the list is written beside the adapter as well, as
``config_kwargs`` of the input module, which Sentence Transformers hands to the configuration of the base; and where a
checkpoint has none, the processor's list counts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from saha_st.modules.adapter_files import ADAPTER_FILE

_SHARED = ("image_grid_pinpoints",)
"""Settings by the name that image processors and configurations have for them."""

_MODULE_CONFIG = "sentence_bert_config.json"


def share_settings(processor: Any, config: Any) -> None:
    """Let a backbone know what its processor does with pictures; changes ``config``."""
    image_processor = getattr(processor, "image_processor", None)
    for name in _SHARED:
        setting = getattr(image_processor, name, None)
        if setting is not None and hasattr(config, name):
            setattr(config, name, _plain(setting))


def write_beside_adapter(folder: Path, config: Any) -> None:
    """Add to a saved adapter what the configuration of its backbone says of pictures; whole checkpoints have it."""
    settings = {name: _plain(getattr(config, name)) for name in _SHARED if getattr(config, name, None) is not None}
    if not settings or not (folder / ADAPTER_FILE).exists():
        return
    path = folder / _MODULE_CONFIG
    saved = json.loads(path.read_text(encoding="utf8"))
    saved["config_kwargs"] = {**saved.get("config_kwargs", {}), **settings}
    path.write_text(json.dumps(saved, indent=4), encoding="utf8")


def _plain(grids: Any) -> list[list[int]]:
    return [list(grid) for grid in grids]
