"""One stream: requests come one after the other, each mistake is corrected, and everything corrected is kept.

For each request: is it answered wrongly (the trigger)? Then train a patch on its texts until the stopping rule says so,
put it beside the earlier ones, remember its queries, and write it to the journal. A stream that is killed goes on at
the next request, and ends with the same numbers, bit for bit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from methods.editing.examples import Example
from methods.editing.patches.cache import AnswerCache, States
from methods.editing.patches.config import StreamConfig
from methods.editing.patches.correctors import Change, Patching, build_corrector
from methods.editing.patches.journal import Journal
from methods.editing.patches.memory import Memory
from methods.editing.patches.metrics import (
    EditRecord,
    StreamMetrics,
    StreamPoint,
    generality,
    share,
    success_rate,
)
from methods.editing.patches.mpn import Decision, StreamEdit, decide
from methods.editing.patches.neuron import PatchNeurons
from orchestrator.data.content import digest_of
from orchestrator.errors import Problems

log = logging.getLogger(__name__)

VERSION = 1
"""Part of a journal's identity: raised when the same stream would now give other numbers."""

Report = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Evaluation:
    """Texts that no edit is about, with their right answers.

    Attributes:
        train: of the training split, not in the memory.
        test: of the test split.
    """

    train: Sequence[Example] = ()
    test: Sequence[Example] = ()


@dataclass(frozen=True)
class StreamResult:
    """What a stream did.

    Attributes:
        records: one for each request, in order.
        curve: accuracy before the first edit, after every `evaluate_every`-th, and at the end.
        metrics: of the final model.
        neurons: all patches, in the order they were made; empty for the baselines.
    """

    records: tuple[EditRecord, ...]
    curve: tuple[StreamPoint, ...]
    metrics: StreamMetrics
    neurons: PatchNeurons


def memory_of(cache: AnswerCache, train: Sequence[Example], validation: Sequence[Example]) -> Memory:
    """The memory of a stream from texts: all their label positions.

    Args:
        cache: computes their queries, once.
        train: what patches are trained against, disjoint from edits and evaluation.
        validation: what training is stopped by.
    """
    return Memory.of(cache.states(train).queries, cache.states(validation).queries)


def run_stream(
    cache: AnswerCache,
    memory: Memory,
    edits: Sequence[StreamEdit],
    evaluation: Evaluation,
    config: StreamConfig,
    *,
    scratch: Path,
    progress: Callable[[float], None] = lambda share: None,
    report: Report = lambda step, metrics: None,
) -> StreamResult:
    """Runs a stream, or goes on with one of the same requests and settings that was interrupted.

    Args:
        cache: of the model; streams that share it share what it has computed.
        memory: what patches must stay silent on; its frozen queries are shared, what a stream appends is its own.
        edits: the requests, in order.
        evaluation: what locality is measured on.
        config: everything else.
        scratch: folder of the journal, of this stream alone.
        progress: called with the share of requests that is done.
        report: called with the number of requests seen and the metrics there, at every point of the curve but the
            first, before it is written to the journal: so a stream that goes on may report a step again. What it raises
            ends the stream.

    Raises:
        UserError: a request lacks its edit language or an answer, or the journal cannot be written.
    """
    _check(edits, config)
    stream = _Stream(cache, memory, edits, evaluation, config, scratch)
    try:
        for index in range(stream.resume(), len(edits)):
            stream.take(index, report)
            progress((index + 1) / len(edits))
        return stream.result(report)
    finally:
        stream.journal.close()


class _Stream:
    """The state of a stream."""

    def __init__(
        self,
        cache: AnswerCache,
        memory: Memory,
        edits: Sequence[StreamEdit],
        evaluation: Evaluation,
        config: StreamConfig,
        scratch: Path,
    ) -> None:
        self.cache, self.edits, self.config = cache, edits, config
        self.corrector = build_corrector(cache, memory, config)
        self.texts = cache.states([text for edit in edits for text in edit.texts.values()])
        named = [(index, language) for index, edit in enumerate(edits) for language in edit.texts]
        self.places = {name: place for place, name in enumerate(named)}
        self.by_edit = self.texts.split([len(edit.texts) for edit in edits])
        self.rephrasings = cache.states([text for edit in edits for text in edit.rephrasings])
        self.rephrasings_of = self.rephrasings.split([len(edit.rephrasings) for edit in edits])
        self.train, self.test = cache.states(evaluation.train), cache.states(evaluation.test)
        self.raw_train, self.raw_test = (share(cache.right(states)) for states in (self.train, self.test))
        self.records: list[EditRecord] = []
        self.curve = [StreamPoint(0, 0, 0, None, None, self.raw_train, self.raw_test)]
        described = [
            [edit.uuid, [asdict(text) for text in edit.texts.values()], [asdict(text) for text in edit.rephrasings]]
            for edit in edits
        ]
        about = [VERSION, config.model_dump(mode="json"), described, memory.restarted().sizes()]
        self.journal = Journal(scratch, digest_of([*about, self.train.texts, self.test.texts]))

    def resume(self) -> int:
        """Takes up what the journal kept; the index of the next request."""
        self.journal.forget_after(self.corrector.kept(self.journal))
        for index, (record, tensors) in enumerate(self.journal.entries):
            edit = EditRecord.from_json(record["edit"])
            self.corrector.restore(self._texts(index, edit.languages), tensors)
            self.records.append(edit)
            if record["point"] is not None:
                self.curve.append(StreamPoint(**record["point"]))
        self.journal.entries.clear()
        return len(self.records)

    def take(self, index: int, report: Report) -> None:
        """One request."""
        edit, config = self.edits[index], self.config
        asked = [language for language in config.asked if language in edit.texts]
        found = self.cache.right(self._texts(index, asked), self.corrector.correction).tolist()
        right = dict(zip(asked, found, strict=True))
        decision = decide(config, right, index)
        change = Change()
        edited = decision.edit and self.corrector.edits
        if edited:
            change = self.corrector.correct(self._texts(index, decision.languages), index)
        self.records.append(self._record(index, edited, decision, right, change))
        point = None
        edits = sum(record.edited for record in self.records)
        if edited and edits % config.evaluate_every == 0:
            point = self._point()
            self.curve.append(point)
            report(point.requests, point.metrics())
        entry = {"edit": self.records[-1].to_json(), "point": None if point is None else asdict(point)}
        self.journal.append(entry, change.tensors)
        if edited:
            self.corrector.written(self.journal, index + 1)

    def result(self, report: Report) -> StreamResult:
        """What came of the stream; measures the final model."""
        point = self._point()
        if self.curve[-1].requests == point.requests:
            self.curve.pop()
        self.curve.append(point)
        metrics = self._metrics(point)
        extra = {"reliability": metrics.reliability, "mlg": metrics.mlg, "clg": metrics.clg_mean}
        report(point.requests, point.metrics() | {name: value for name, value in extra.items() if value is not None})
        patching = isinstance(self.corrector, Patching)
        neurons = self.corrector.correction if patching else self.cache.site.empty()
        assert isinstance(neurons, PatchNeurons)
        return StreamResult(tuple(self.records), tuple(self.curve), metrics, neurons)

    def _texts(self, index: int, languages: Sequence[str]) -> States:
        """The states of a request in some languages."""
        known = list(self.edits[index].texts)
        return self.by_edit[index].select([known.index(language) for language in languages])

    def _record(
        self, index: int, edited: bool, decision: Decision, right: Mapping[str, bool], change: Change
    ) -> EditRecord:
        correction = self.corrector.correction
        now = self.cache.right(self._texts(index, decision.languages), correction).tolist()
        rephrased = share(self.cache.right(self.rephrasings_of[index], correction)) if edited else None
        return EditRecord(
            uuid=self.edits[index].uuid,
            index=index,
            edited=edited,
            languages=decision.languages,
            wrong=tuple(language for language, is_right in right.items() if not is_right),
            patches=change.patches,
            steps=change.steps,
            stopped=change.stopped,
            success=now[0],
            drawn_success=now[1] if len(now) > 1 else None,
            rephrased=rephrased,
            correct_before=right[self.config.edit_language],
        )

    def _right(self, states: States) -> torch.Tensor:
        return self.cache.right(states, self.corrector.correction)

    def _point(self) -> StreamPoint:
        """Accuracy of the model as it is now."""
        edited = [record for record in self.records if record.edited]
        places = [self.places[record.index, self.config.edit_language] for record in edited]
        return StreamPoint(
            requests=len(self.records),
            edits=len(edited),
            patches=sum(record.patches for record in self.records),
            success=success_rate(self.records),
            retained=share(self._right(self.texts.select(places))),
            locality_train=share(self._right(self.train)),
            locality_test=share(self._right(self.test)),
        )

    def _metrics(self, point: StreamPoint) -> StreamMetrics:
        """All figures of the final model."""
        right = self._right(self.texts)
        by_language: dict[str, list[int]] = {}
        for (_, language), place in self.places.items():
            by_language.setdefault(language, []).append(place)
        accuracy = {language: share(right[places]) for language, places in by_language.items()}
        reliability = accuracy.pop(self.config.edit_language, None)
        return StreamMetrics(
            edits=point.edits,
            patches=point.patches,
            reliability=reliability,
            mlg=share(self._right(self.rephrasings)),
            clg={language: value for language, value in accuracy.items() if value is not None},
            locality_train=point.locality_train,
            locality_test=point.locality_test,
            success=point.success,
            generality=generality(self.records),
            retained=point.retained,
            raw_train=self.raw_train,
            raw_test=self.raw_test,
        )


def _check(edits: Sequence[StreamEdit], config: StreamConfig) -> None:
    problems = Problems()
    lacking = [edit.uuid for edit in edits if config.edit_language not in edit.texts]
    if lacking:
        problems.add(
            f"{len(lacking)} of {len(edits)} requests have no text in the edit language {config.edit_language!r}, "
            f"first {lacking[0]}, so they cannot be edited. Leave them out or choose another edit language."
        )
    silent = [edit.uuid for edit in edits for text in (*edit.texts.values(), *edit.rephrasings) if not text.answer]
    if silent:
        problems.add(
            f"{len(silent)} texts of the requests have no right answer, first one of {silent[0]}, so nothing can be "
            "taught. Give every text its answer."
        )
    unknown = [language for language in config.asked if not any(language in edit.texts for edit in edits)]
    if edits and unknown:
        problems.add(
            f"No request has a text in {', '.join(unknown)}, so parallel texts cannot be drawn there. Take these "
            "languages out of the list, or add their texts."
        )
    problems.raise_if_any()
