"""What visitors are told: what they can put right, and nothing about the machine."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

logger = logging.getLogger(__name__)

SOMETHING_WENT_WRONG = "Something went wrong here, and it was noted. Please try again, or something else."


class UserError(ValueError):
    """What a visitor can put right; its text is shown to them."""


def shielded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a visitor see the text of a `UserError`, and of any other error only that there was one.

    Any other error is logged with its traceback.
    """
    import gradio as gr

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            message = str(error)
        except Exception:
            logger.exception("%s failed.", function.__name__)
            message = SOMETHING_WENT_WRONG
        raise gr.Error(message, print_exception=False)

    return call
