"""The folder of a run: who may write into it, and from which checkpoint it goes on."""

from __future__ import annotations

import json
from pathlib import Path

from saha_st.files import write_text_whole
from saha_st.training.config import RunConfig

CONFIG_FILE = "run_config.json"


_SAME_RESULT = {"report_to", "run_name", "logging_steps", "disable_tqdm", "dataloader_num_workers", "save_total_limit"}
"""Training arguments that may change between a run and its resumption."""


def open_output_dir(config: RunConfig, *, resume: bool) -> Path:
    """Create the run's folder, or take it up again. On one process only; the others wait for it.

    Raises:
        FileExistsError: The folder is not empty, and ``resume`` was not asked for.
        ValueError: The run to resume had another config, or the folder holds no run.
    """
    begun = check_output_dir(config, resume=resume)
    folder = Path(config.output_dir)
    wanted = json.loads(json.dumps(config.to_dict(), default=str))
    if begun:
        _check_same(folder, wanted)
    folder.mkdir(parents=True, exist_ok=True)
    write_text_whole(folder / CONFIG_FILE, json.dumps(wanted, indent=2))
    return folder


def check_output_dir(config: RunConfig, *, resume: bool) -> bool:
    """Return whether the run's folder holds a run that was begun.

    Raises:
        FileExistsError: It does, and ``resume`` was not asked for.
    """
    folder = Path(config.output_dir)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"output_dir {str(folder)!r} is a file.")
    # A run that failed before it made anything leaves its config only, and may be started again with another.
    begun = {path.name for path in folder.iterdir()} - {CONFIG_FILE} if folder.is_dir() else set()
    if begun and not resume:
        raise FileExistsError(
            f"output_dir {str(folder)!r} is not empty. Choose another folder, remove it, or go on with resume=True "
            "(--resume)."
        )
    return bool(begun)


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end.

    The trainer writes ``trainer_state.json`` last, so a checkpoint without a readable one was cut off by a kill.
    """
    checkpoints = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    for path in sorted(checkpoints, key=lambda path: -int(path.name.removeprefix("checkpoint-"))):
        try:
            json.loads((path / "trainer_state.json").read_text())
        except (OSError, ValueError):
            continue
        return path
    return None


def _check_same(folder: Path, wanted: dict) -> None:
    stored = folder / CONFIG_FILE
    if not stored.exists():
        raise ValueError(f"The folder {str(folder)!r} holds no run to resume: it has no {CONFIG_FILE}.")
    before, now = (_deciding(values) for values in (json.loads(stored.read_text()), wanted))
    different = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    if different:
        raise ValueError(
            f"The run in {str(folder)!r} was started with other values of {', '.join(different)}; resumed, it would "
            "not be the same run. Restore them, or choose another output_dir."
        )


def _deciding(values: dict) -> dict:
    """What of a config the result depends on."""
    training = {key: value for key, value in (values.get("training") or {}).items() if key not in _SAME_RESULT}
    return {**values, "training": training, "output_dir": None}
