"""What `publish` raises when its own checks fail."""

from __future__ import annotations


class CheckFailedError(RuntimeError):
    """What was about to be published does not load, or gives other vectors, where `saha_st` is not installed."""
