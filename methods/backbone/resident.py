"""What a process has taken of its machine's memory, its model included."""

from __future__ import annotations

import psutil


def taken_bytes() -> int:
    """Bytes that are resident once all weight files that are mapped have been read; libraries and all else included.

    Where the system does not say which files are mapped, what is resident now.
    """
    process = psutil.Process()
    resident: int = process.memory_info().rss
    if not hasattr(process, "memory_maps"):
        return resident
    return resident + sum(part.size - part.rss for part in process.memory_maps() if part.path.endswith(".safetensors"))
