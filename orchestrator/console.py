"""Words for people: lines that can be copied, durations, and the command that was typed."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence

from rich.console import Console


def say(console: Console, text: str) -> None:
    """Prints text as it is, so that paths and commands can be copied: no wrapping, no markup."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def duration(seconds: float) -> str:
    """Seconds for people: ``45 s``, ``3 min``, ``2 h 05 min``, ``90 days``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, days = round(seconds / 60), round(seconds / 86_400)
    if days > 2:
        return f"{days:,} days"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def in_ray_job() -> bool:
    """Whether this process was started by ``ray job submit``, in a temporary copy of the project."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def command(arguments: Sequence[str], script: str | None = None) -> str:
    """What to type to run `script` (default: the running one) with these arguments, in the way this one was started."""
    words = [script or sys.argv[0], *arguments]
    if in_ray_job():
        return shlex.join(["ray", "job", "submit", "--working-dir", ".", "--", "python", *words])
    return shlex.join([sys.orig_argv[0] if sys.orig_argv else "python", *words])
