"""A step of work on a CUDA GPU that is recorded once and then played again.

A small model's decoding step is a thousand launches of a few microseconds each: the processor
needs longer to ask for them than the GPU to do them. A graph asks for all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


class Replayed:
    """``work`` without arguments and result, on tensors that keep their place and shape.

    The first call does it as it is: libraries set themselves up, and nothing of that may be
    recorded. The second records it, which does not do it, and plays it; so do all others.
    It must not ask the GPU for a value, nor branch on anything that changes.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._warm = False
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if not self._warm:
            self._warm_up()
            return
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._work()
        self._graph.replay()

    def _warm_up(self) -> None:
        """On another stream, as recording will be (CUDA C++ Programming Guide, CUDA Graphs)."""
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            self._work()
        torch.cuda.current_stream().wait_stream(beside)
        self._warm = True
