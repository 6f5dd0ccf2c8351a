"""The one door from an exception to the screen.

``UserError`` and the contract's ``InputError`` say something a person can act on, and are
shown as they are. Anything else is our bug: it is logged with its trace, and the person gets
one calm sentence.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from types import TracebackType

from finetune.contract.errors import InputError

log = logging.getLogger(__name__)


class UserError(Exception):
    """Something a person can do something about.

    Args:
        message: what happened, in one sentence.
        hint: what to do about it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def sentence(error: BaseException) -> tuple[str, str]:
    """Message and hint for the screen."""
    if isinstance(error, UserError):
        return error.message, error.hint
    if isinstance(error, InputError):
        return str(error), ""
    return (
        "Something went wrong inside Attune.",
        "Your conversations are safe. The log in the data folder says more.",
    )


def install_excepthook(show: Callable[[str, str], None]) -> None:
    """Send every uncaught exception to the log and to ``show(message, hint)``."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
            return
        if not isinstance(error, UserError | InputError):
            log.error("Uncaught exception", exc_info=(kind, error, trace))
        show(*sentence(error))

    sys.excepthook = hook
