"""Mistakes a user can mend: one message, exit code 2, never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

ValueT = TypeVar("ValueT")


class UserError(Exception):
    """One or several mistakes in what the user handed in.

    Each problem is one sentence or short paragraph that names the cause, the consequence and the
    way out. A job prints all of them and exits with code 2; nothing has been written by then.
    """

    def __init__(self, *problems: str) -> None:
        self.problems: tuple[str, ...] = problems
        super().__init__("\n".join(problems))

    def __reduce__(self) -> tuple[type[UserError], tuple[str, ...]]:
        return type(self), self.problems


class Problems:
    """Collects mistakes so that all of them are reported at once.

    >>> problems = Problems()
    >>> problems.add("language 'xx' is not in the facts")
    >>> problems.raise_if_any()
    Traceback (most recent call last):
    orchestrator.errors.UserError: language 'xx' is not in the facts
    """

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, problem: str) -> None:
        self.found.append(problem)

    def collect(self, step: Callable[[], ValueT]) -> ValueT | None:
        """The value of a step, or None with its mistakes kept, so that other steps can report theirs too."""
        try:
            return step()
        except UserError as error:
            self.found.extend(error.problems)
            return None

    def raise_if_any(self) -> None:
        """Raises UserError with everything collected so far."""
        if self.found:
            raise UserError(*self.found)


def did_you_mean(word: str, known: Iterable[str], limit: int = 3) -> str:
    """A suffix such as ``" Did you mean 'de'?"`` naming the known words near `word`, or all of a short list."""
    names: Sequence[str] = sorted(set(known))
    near = difflib.get_close_matches(word, names, n=limit, cutoff=0.6)
    if near:
        return " Did you mean " + " or ".join(repr(name) for name in near) + "?"
    if 0 < len(names) <= 60:
        return " Known: " + ", ".join(names) + "."
    return ""
