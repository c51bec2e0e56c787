from __future__ import annotations

import subprocess
import sys

import pytest

import saha_st.data


def test_every_public_name_can_be_had_from_the_package():
    for name in saha_st.data.__all__:
        assert getattr(saha_st.data, name) is not None and name in dir(saha_st.data)
    with pytest.raises(AttributeError, match="no attribute 'load_nothing'"):
        saha_st.data.load_nothing  # noqa: B018


def test_importing_the_package_imports_nothing_heavy():
    code = "import saha_st.data, sys; sys.exit(any(m in sys.modules for m in ('torch', 'datasets', 'PIL', 'pyarrow')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
