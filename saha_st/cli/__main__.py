"""``python -m saha_st.cli``, as ``python -m saha_st``."""

from __future__ import annotations

import sys

from saha_st.cli import main

sys.exit(main())
