"""One small gallery and one engine for the tests of the demo; nothing here is changed by a test."""

from __future__ import annotations

import pytest

pytest.importorskip("gradio")


@pytest.fixture(scope="session")
def gallery():
    from saha_st.demo.gallery import scenes_gallery

    return scenes_gallery(groups=8)


@pytest.fixture(scope="session")
def vector_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("vectors")


@pytest.fixture(scope="session")
def make_engine(gallery, vector_folder):
    """Loads saha-tiny anew, as another start of the demo would; the vectors are in `vector_folder`."""
    from saha_st.demo.engine import Engine
    from saha_st.modules import load_embedder

    def make():
        return Engine(load_embedder("saha-tiny", device="cpu"), gallery, name="saha-tiny", cache_folder=vector_folder)

    return make


@pytest.fixture(scope="session")
def engine(make_engine):
    return make_engine()
