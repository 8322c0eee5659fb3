"""The peak memory of this process, on the host and on its GPU."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path


def reset_peak() -> None:
    """Starts a new peak, so that a trial does not inherit the one of the trial before it in the same process."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
        sys.modules["torch"].cuda.reset_peak_memory_stats()


def peak() -> int:
    """Peak resident memory in bytes since `reset_peak`; since the start of the process where Linux cannot say."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def peak_gpu() -> int:
    """Peak bytes allocated on the GPU since `reset_peak`; 0 without one."""
    torch = sys.modules.get("torch")
    return int(torch.cuda.max_memory_allocated()) if torch is not None and torch.cuda.is_initialized() else 0
