"""What the answer needs to know of a sweep beside its trials: small, JSON, kept in summary.json.

With it the answer can be derived again at any time, on any machine, without the model and without the facts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from methods.lrp2.analysis.paper import ModelShape
from methods.lrp2.results import trial_record
from methods.lrp2.selection import SelectionOptions
from methods.lrp2.spec import LRP2Spec
from orchestrator.study import TrialResult

if TYPE_CHECKING:
    from methods.lrp2.study import LRP2Study


CONTROLS = {
    "random": "this sweep is a control: the vectors' directions are random, their norms and angles as they were",
    "shuffled": "this sweep is a control: every language has another language's vectors",
}


@dataclass(frozen=True)
class SearchRecord:
    """A layer search without its trials.

    Attributes:
        spec: what was asked.
        description: what the sweep is of, as `Study.describe` says it.
        languages: those searched, in the order of the answer.
        skipped: those asked for that have no facts.
        shape: of the model.
        probe: the probe's options as they came out (kind, candidates, pool_size, seed, score, bos).
        warnings: what the user was told.
        guessed: whether it was guessed from the trials that were finished then, as `guessed_record` does.
    """

    spec: LRP2Spec
    description: Mapping[str, str]
    languages: tuple[str, ...]
    skipped: tuple[str, ...]
    shape: ModelShape
    probe: Mapping[str, Any]
    warnings: tuple[str, ...]
    guessed: bool = False

    @property
    def facts_kind(self) -> str:
        """Of which source the facts are, such as "mlama"."""
        return self.spec.facts.split(":", 1)[0]

    def to_json(self) -> dict[str, Any]:
        """Everything but the specification, which stands in spec.yaml."""
        return {
            "description": dict(self.description),
            "languages": list(self.languages),
            "skipped": list(self.skipped),
            "shape": asdict(self.shape),
            "probe": dict(self.probe),
            "warnings": list(self.warnings),
            "guessed": self.guessed,
        }

    @classmethod
    def from_json(cls, spec: LRP2Spec, content: Mapping[str, Any]) -> SearchRecord:
        """The record that `to_json` wrote.

        Raises:
            KeyError, TypeError: it is not one.
        """
        return cls(
            spec=spec,
            description=dict(content["description"]),
            languages=tuple(content["languages"]),
            skipped=tuple(content["skipped"]),
            shape=ModelShape(**content["shape"]),
            probe=dict(content["probe"]),
            warnings=tuple(content["warnings"]),
        )


def guessed_record(spec: LRP2Spec, results: Sequence[TrialResult]) -> SearchRecord:
    """The record of a sweep that has not come to its end, as far as its specification and trials tell it."""
    found = sorted({str(result.trial.cell["language"]) for result in results} - {spec.pivot})
    languages = tuple(name for name in spec.languages or found if name in found)
    layers = max(int(trial_record(result.table)["num_layers"]) for result in results)
    probe = {"kind": spec.probe, "candidates": spec.candidates, "pool_size": spec.pool_size, "seed": spec.seed}
    return SearchRecord(
        spec=spec,
        description={"model": spec.model, "data": spec.facts, "languages": str(len(languages))},
        languages=languages,
        skipped=(),
        shape=ModelShape("", layers, 0, 0),
        probe=probe | {"score": spec.score, "bos": spec.bos},
        warnings=("The sweep has not come to its end: this is what its finished trials say.",),
        guessed=True,
    )


def record_of(study: LRP2Study) -> SearchRecord:
    """The record of a prepared study."""
    model = study.description
    return SearchRecord(
        spec=study.spec,
        description=study.describe(),
        languages=study.languages,
        skipped=study.facts.skipped,
        shape=ModelShape(model.architecture, model.num_layers, model.hidden_size, model.vocab_size),
        probe=vars(study.probe),
        warnings=tuple(study.warnings),
    )


def selection_options(spec: LRP2Spec) -> SelectionOptions:
    """The spec's part that decides how hits become scores."""
    return SelectionOptions(
        ties=spec.ties,
        pivot_reference=spec.pivot_reference,
        criterion=spec.criterion,
        folds=spec.folds,
        bootstrap=spec.bootstrap,
        correction=spec.correction,
        draws=spec.null_draws,
        seed=spec.seed,
    )


def decisions(record: SearchRecord) -> dict[str, str]:
    """Every choice that the papers leave open, with its value here."""
    spec, probe = record.spec, record.probe
    pools = {
        "full": "all objects of the relation in the language",
        "sampled": f"{probe['pool_size']} objects, drawn by seed {probe['seed']}, shared by all languages",
        "own": "the candidates listed with each fact",
    }
    chosen = {"control": CONTROLS[spec.control]} if spec.control != "none" else {}
    chosen |= {
        "probe": probe["kind"],
        "pools": pools.get(probe["candidates"], "as the facts and the model have it"),
        "ties": "wrong" if spec.ties == "strict" else "shared credit",
        "special tokens in language vectors": spec.specials + "d",
        "text of the language vectors": f"{spec.sentences}, at most {spec.max_sentences} sentences a language",
        "last layer": "after the final norm, where there is one" if spec.last_layer == "normed" else "before the norm",
        "pivot's facts in Trans": "those of the language" if spec.pivot_reference == "restricted" else "all",
        "best pair by": f"{spec.criterion}, ties by the other score, then the smaller i, then the smaller j",
        "honest choice": f"{spec.folds} folds over subjects, {spec.bootstrap} bootstrap resamples of subjects",
        "test": "sign flips over subjects, two-sided, "
        + ("not corrected" if spec.correction == "none" else f"{spec.correction} over the languages"),
        "arithmetic": spec.dtype + (f", logits in {spec.head_dtype}" if spec.head_dtype else ""),
    }
    if spec.split:
        chosen["facts"] = f"those {spec.split} in the language when the built-in model was trained"
    if probe["kind"] == "masked":
        chosen["pieces of an object"] = "those it has in its template, behind a space where one stands there"
    if probe["kind"] == "causal":
        chosen["causal score"] = {
            "mean": "mean log-probability of all tokens",
            "sum": "sum of the log-probabilities of all tokens",
            "object": "mean log-probability of the object's tokens",
        }[probe["score"]] + (", sentence start token put in front" if probe["bos"] else ", no sentence start token")
    return chosen
