"""``python -m saha_st``, and so ``torchrun -m saha_st`` and ``accelerate launch -m saha_st``."""

from __future__ import annotations

import sys

from saha_st.cli import main

sys.exit(main())
