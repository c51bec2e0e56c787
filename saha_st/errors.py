"""What long work raises when its machine is too small for it; here, so that it is known without torch."""

from __future__ import annotations


class MemoryFullError(RuntimeError):
    """A step needs more memory than there is; says for which rows, and what to lower."""

    is_of_all = True  # processes meet it together, each in rows of its own: one of them says so
