"""Out of memory in the middle of a step: the step is done again in smaller pieces.

A step's result does not depend on how it is cut into micro-batches (up to the rounding of
sums), so a run goes on where it would have ended, at the price of some speed.
"""

from __future__ import annotations

import errno
import gc
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from finetune.stage import StageRun

FEWEST_TOKENS: Final = 8
"""Micro-batches as small as this hold one sequence each: nothing smaller can be tried."""
_TEXTS: Final = ("out of memory", "not enough memory", "can't allocate memory")

Result = TypeVar("Result")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python, PyTorch or the system says so."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(s in str(error).lower() for s in _TEXTS))
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    )


def smaller_if_needed(
    run: StageRun, work: Callable[[int], Result], forget: Callable[[], None] = lambda: None
) -> Result:
    """``work(tokens at once)``, again with half of them each time memory runs out, be it here or
    in another of several processes: all of them do it again.

    Args:
        forget: drops what a broken-off try has left behind, such as half a gradient.

    Raises:
        RuntimeError or MemoryError: not even one sequence at a time fits.
    """
    from finetune import distributed  # brings torch

    while True:
        try:
            result = work(run.micro_batch_tokens)
            distributed.all_is_well()
            return result
        except (RuntimeError, MemoryError, OSError) as error:
            if not is_out_of_memory(error):
                raise
            if not isinstance(error, distributed.OutOfMemoryElsewhereError):
                distributed.all_is_well(here=False)
            if run.micro_batch_tokens <= FEWEST_TOKENS:
                raise
        # Outside of the except block: the exception's frames hold the tensors of the try.
        forget()
        gc.collect()
        _give_back()
        run.micro_batch_tokens = max(FEWEST_TOKENS, run.micro_batch_tokens // 2)
        run.rows_at_once = max(1, run.rows_at_once // 2)
        run.note(
            "There was not enough memory for a step, so it goes on in smaller pieces "
            f"({run.micro_batch_tokens} tokens at once)."
        )


def _give_back() -> None:
    """Memory that PyTorch keeps for later on a GPU, back to the GPU."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
