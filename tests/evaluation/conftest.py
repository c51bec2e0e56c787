from __future__ import annotations

from pathlib import Path

import pytest
from mmeb_folder import write_mmeb


@pytest.fixture(scope="session")
def mmeb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the schema of MMEB-eval; never written to by a test."""
    return write_mmeb(tmp_path_factory.mktemp("mmeb") / "MMEB-eval")
