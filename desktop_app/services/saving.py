"""What the disk does not take, said to the person as the database says it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from desktop_app.errors import UserError


@contextmanager
def saving() -> Iterator[None]:
    """Write files in here: a full disk is the person's to mend and not a bug of ours.

    Raises:
        UserError: the disk is full, or cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = "The disk is full, so this could not be saved."
            raise UserError(message, "Free some space.") from error
        message = f"This could not be saved ({error.strerror or error})."
        raise UserError(message, "Check the data folder.") from error
