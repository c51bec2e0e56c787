"""The folder of a run: who may write into it, and from which checkpoint it goes on."""

from __future__ import annotations

import json
from pathlib import Path

from saha_st.encoding import write_whole
from saha_st.training.config import RunConfig

CONFIG_FILE = "run_config.json"


def open_output_dir(config: RunConfig, *, resume: bool) -> Path:
    """Create the run's folder, or take it up again.

    Raises:
        FileExistsError: The folder is not empty, and ``resume`` was not asked for.
        ValueError: The run to resume had another config.
    """
    folder = Path(config.output_dir)
    stored = folder / CONFIG_FILE
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"output_dir {str(folder)!r} is a file.")
    if folder.is_dir() and any(folder.iterdir()) and not resume:
        raise FileExistsError(
            f"output_dir {str(folder)!r} is not empty. Choose another folder, remove it, or go on with resume=True "
            "(--resume)."
        )
    if resume and stored.exists():
        _check_same(json.loads(stored.read_text()), config.to_dict(), folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(stored, lambda file: file.write(json.dumps(config.to_dict(), indent=2).encode()))
    return folder


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


def _check_same(stored: dict, wanted: dict, folder: Path) -> None:
    different = [key for key in wanted if stored.get(key) != wanted[key]]
    if different:
        raise ValueError(
            f"The run in {str(folder)!r} was started with other values of {', '.join(different)}; resumed, it would "
            "not be the same run. Restore them, or choose another output_dir."
        )
