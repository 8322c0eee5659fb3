"""Translates the claims of FEVER files into other languages, goes on after a kill, and says how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from methods.translation import Translator, load_translator
from orchestrator.data.loaders.fever import Claim
from orchestrator.data.translations import ClaimFile, TranslationFile, claims_to_translate, place_beside
from orchestrator.errors import Problems

TEXTS_AT_ONCE = 512
"""Texts between two writes of a file: enough that most of a batch has one length."""

Progress = Callable[[str, float], None]
"""Called with the file that is being written, and the share of all characters that is translated."""


@dataclass(frozen=True)
class Translated:
    """What came of it.

    Attributes:
        files: the translations.
        claims: that they hold, of those that were asked for.
        failed: claims whose translation came out empty or without an end; they were left out.
    """

    files: tuple[Path, ...]
    claims: int
    failed: int


@dataclass(frozen=True)
class _Task:
    """One file into one language."""

    english: ClaimFile
    file: TranslationFile
    code: str | None = None

    @property
    def missing(self) -> dict[str, Claim]:
        return {uuid: claim for uuid, claim in self.english.claims.items() if uuid not in self.file.done}


def prepare_translations(
    model: Path,
    claims: Path,
    languages: Mapping[str, str | None],
    *,
    output: Path | None = None,
    splits: Sequence[str] | None = None,
    beams: int | None = None,
    device: str = "cpu",
    say: Callable[[str], None] = lambda text: None,
    progress: Progress = lambda name, share: None,
) -> Translated:
    """Translates claims and their rephrasings, those that are not translated already.

    Args:
        model: folder of a translation model.
        claims: file or folder, the same that a study will be given as ``fever:<claims>``.
        languages: codes of the files, and the model's own code of each where it must be told.
        output: where translations go, with a copy of the claims; None: beside the claims.
        splits: only claims of these; None takes all.
        beams: width of the beam search; None takes what the model was saved with.
        device: torch device string.
        say: called with one sentence for each file.
        progress: called now and then.

    Raises:
        UserError: all mistakes in claims, languages and model.
    """
    sources = claims_to_translate(claims, splits)
    problems = Problems()
    tasks = []
    for english in sources:
        for language in languages:
            folder = english.path.parent if output is None else output
            file = problems.collect(partial(TranslationFile, folder, english.name, language))
            if file is not None:
                tasks.append(_Task(english, file))
    problems.raise_if_any()
    if output is not None:
        for english in sources:
            place_beside(english, output)
    for task in tasks:
        say(
            f"{task.file.path.name}: {len(task.english.claims):,} claims, "
            f"{len(task.english.claims) - len(task.missing):,} of them translated already"
        )
        if not task.missing:
            task.file.finish()
    failed = 0
    todo = [task for task in tasks if task.missing]
    if todo:
        say(f"Loading {model} ...")
        translator, name = load_translator(model, beams=beams, device=device)
        failed = _translate(translator, name, _coded(translator, todo, languages), progress)
    held = sum(len(task.english.claims) - len(task.missing) for task in tasks)
    return Translated(tuple(task.file.path for task in tasks), held, failed)


def _coded(translator: Translator, tasks: Sequence[_Task], languages: Mapping[str, str | None]) -> list[_Task]:
    """The tasks with the model's codes."""
    problems = Problems()
    names = list(dict.fromkeys(task.file.language for task in tasks))
    if not translator.codes and (len(languages) > 1 or any(languages.values())):
        problems.add(
            f"The model translates into one language only and does not say which, but {', '.join(languages)} are asked "
            "for. Run this once for each language, with the model of that language and without =CODE."
        )
    codes = {name: problems.collect(partial(translator.code_of, name, languages[name])) for name in names}
    problems.collect(partial(translator.check, _texts(claim for task in tasks for claim in task.missing.values())))
    problems.raise_if_any()
    return [_Task(task.english, task.file, codes[task.file.language]) for task in tasks]


def _translate(translator: Translator, name: str, tasks: Sequence[_Task], progress: Progress) -> int:
    """Translates and writes; the number of claims without a translation."""
    total = sum(len(text) for task in tasks for text in _texts(task.missing.values()))
    done, failed = 0, 0
    for task in tasks:

        def advance(characters: int, task: _Task = task) -> None:
            nonlocal done
            done += characters
            progress(task.file.path.name, min(1.0, done / total))

        with task.file.opened(name):
            for block in _blocks(task.english.claims):
                missing = {uuid: claim for uuid, claim in block.items() if uuid not in task.file.done}
                if missing:
                    failed += _translate_block(translator, task, missing, advance)
    return failed


def _translate_block(
    translator: Translator, task: _Task, claims: Mapping[str, Claim], advance: Callable[[int], None]
) -> int:
    """Translates some claims together and writes them; the number of claims without a translation."""
    texts = _texts(claims.values())
    said = dict(zip(texts, translator.translate(texts, task.code, advance), strict=True))
    ready = {
        uuid: Claim(text, None, tuple(other for one in claim.rephrasings if (other := said[one]) is not None))
        for uuid, claim in claims.items()
        if (text := said[claim.text]) is not None
    }
    if ready:
        task.file.add(ready)
    return len(claims) - len(ready)


def _texts(claims: Iterable[Claim]) -> list[str]:
    """Claims and rephrasings, each once."""
    return list(dict.fromkeys(text for claim in claims for text in (claim.text, *claim.rephrasings)))


def _blocks(claims: Mapping[str, Claim]) -> Iterator[dict[str, Claim]]:
    """Consecutive claims with about TEXTS_AT_ONCE texts. They do not depend on what is translated already, so a
    translation that was interrupted ends as one that was not."""
    block: dict[str, Claim] = {}
    texts = 0
    for uuid, claim in claims.items():
        block[uuid] = claim
        texts += 1 + len(claim.rephrasings)
        if texts >= TEXTS_AT_ONCE:
            yield block
            block, texts = {}, 0
    if block:
        yield block
