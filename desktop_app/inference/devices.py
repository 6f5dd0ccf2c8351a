"""What llama.cpp can compute on here: graphics devices with their free memory, the processor.

ggml's device calls have no wrapper in llama-cpp-python; they are declared here as they stand
in ``ggml-backend.h``.
"""

from __future__ import annotations

import ctypes
import platform
from typing import Any, Final

import llama_cpp
from llama_cpp import _ggml

from desktop_app.inference.fit import Machine
from desktop_app.inference.free_memory import free_memory

_DISCRETE: Final = 1  # GGML_BACKEND_DEVICE_TYPE_GPU: its memory is not the processor's


def machine(held: int = 0, held_graphics: int = 0) -> Machine:
    """What is free now.

    Args:
        held, held_graphics: bytes of the model that makes way; they count as free.
    """
    graphics = list(_graphics_memory())
    if graphics:
        graphics[0] += held_graphics
    return Machine(free_memory() + held, tuple(graphics))


def is_arm() -> bool:
    return platform.machine().lower() in ("arm64", "aarch64")


def repacks() -> bool:
    """Whether llama.cpp gives some weights a second copy laid out for this processor."""
    features = llama_cpp.llama_print_system_info().decode("ascii", "replace")
    words = ("DOTPROD = 1", "MATMUL_INT8 = 1") if is_arm() else ("AVX2 = 1",)
    return "REPACK = 1" in features and any(word in features for word in words)


def _graphics_memory() -> tuple[int, ...]:
    """Free bytes of each discrete graphics device, as many as llama.cpp can use."""
    if not llama_cpp.llama_supports_gpu_offload():
        return ()
    library: Any = _ggml.libggml
    library.ggml_backend_dev_count.restype = ctypes.c_size_t
    library.ggml_backend_dev_get.restype = ctypes.c_void_p
    library.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    library.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    sizes = ctypes.POINTER(ctypes.c_size_t)
    library.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, sizes, sizes]
    found = []
    for index in range(library.ggml_backend_dev_count()):
        device = library.ggml_backend_dev_get(index)
        if library.ggml_backend_dev_type(device) != _DISCRETE:
            continue
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        library.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        found.append(int(free.value))
    return tuple(found[: llama_cpp.llama_max_devices()])
