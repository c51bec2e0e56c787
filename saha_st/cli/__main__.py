"""``python -m saha_st.cli``, for ``accelerate launch -m``."""

from __future__ import annotations

import sys

from saha_st.cli import main

sys.exit(main())
