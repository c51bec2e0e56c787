"""The demo: search a gallery, see what the prompt does (the hat), see what mining throws out (the detective).

`saha-st demo` and the Space in `spaces_demo/` are the same `build_demo`. Whatever computes is a pure function or a
small class without gradio; `app` and the tabs lay out, and translate. Names are imported when they are first used.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

from saha_st.lazy import lazy_names

# Read by gradio when it is imported: the app reports to nobody.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

_HOMES = {
    "DemoSettings": "settings",
    "build_demo": "app",
    "launch_options": "app",
}

__all__ = list(_HOMES)


def _require_gradio(name: str, home: str) -> None:
    if home == "app" and find_spec("gradio") is None:
        raise ImportError('The demo needs gradio, which is not installed. Run: pip install "saha-st[demo]"')


__getattr__, __dir__ = lazy_names(__name__, _HOMES, before=_require_gradio)
