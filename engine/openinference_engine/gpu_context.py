"""The context of the GPU, created by its driver while torch is still being imported.

A process has one primary context per GPU, which torch uses as it finds it. Where there is no driver
or no GPU nothing happens here: who needs one says what is missing.
"""

from __future__ import annotations

import ctypes
import threading

_FIRST_DEVICE = 0  # of those that CUDA_VISIBLE_DEVICES leaves; torch's default too


def begin_context() -> None:
    """Begins in a thread of its own; whoever uses the GPU before it is done waits for it."""
    threading.Thread(target=_retain_context, name="gpu-context", daemon=True).start()


def _retain_context() -> None:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    device, context = ctypes.c_int(), ctypes.c_void_p()
    if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), _FIRST_DEVICE) == 0:
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
