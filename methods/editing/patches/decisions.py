"""Every choice that the papers and the released code leave open, with its value in a sweep of patch neurons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from methods.editing.patches.config import PatchConfig, TuningConfig
from methods.editing.patches.requests import LOCALITY_SHARE, memory_languages
from methods.editing.patches.spec import OFFERED
from methods.editing.raw import in_words

if TYPE_CHECKING:
    from methods.editing.patches.study import PatcherStudy


def decisions(study: PatcherStudy) -> Mapping[str, str]:
    """Decision and value, for trial files, the report and summary.json."""
    spec = study.spec
    chosen = {
        "edited classifier": in_words(spec),
        "requests": f"the {study.split} split in {spec.edit_language}, "
        + (f"dealt into {spec.folders} folders, each edited from the raw model, " if spec.folders > 1 else "")
        + f"{study.requests} in a stream; a seed draws their order, the same for all variants",
        "CLG": "accuracy on the requests in every other language, edited or not, and the mean over languages",
        "MLG": "accuracy on all rephrasings of the requests, edited or not",
        "locality": "accuracy, as Si et al. report it, not agreement with the raw model; in "
        f"{spec.edit_language}, on at most {spec.locality_texts} training texts outside the memory (of few, "
        f"{LOCALITY_SHARE}) and on "
        + ("the test split" if study.split == "edit" else "half of the dev split, since the test split is edited"),
        "retain rates": "accuracy after the stream divided by accuracy before it (TrainR and TestR of Huang et al.)",
        "memory": f"at most {spec.memory_texts} training texts in {', '.join(memory_languages(spec))}"
        + (", and the queries of every edit" if spec.remember else "; edits are not remembered"),
        "languages drawn from": "'all' are all languages but the edit's",
        "trigger of mpn-only": {
            "either": "the edit text or the drawn one is wrong",
            "edit language": "the edit text is wrong",
        }[spec.only],
        "trigger of mpn-all": "any language of the list or the edit's is wrong; the parallel text is drawn from "
        + ("the wrong ones, if any" if spec.all_draws == "wrong" else "all of them"),
        "key of two queries": {
            "edit language": "starts from the query of the edit text",
            "mean": "starts from the mean query of both texts",
        }[spec.key],
        "task loss": {
            "as released": f"cross-entropy minus {spec.eps:g} entropy, over the classes",
            "entropy": f"cross-entropy minus {spec.eps:g} entropy, over the classes",
            "label smoothing": f"cross-entropy with {spec.eps:g} label smoothing",
            "none": "cross-entropy",
        }[spec.confidence],
        "repetitions of an edit": f"{spec.copies}, shared out among its texts; without dropout they only count in "
        "top-k means",
        "margins of the memory losses": f"{spec.relative_margin:g} and {spec.absolute_margin:g}, weight "
        f"{spec.memory_weight:g} (Huang et al.: 3 and -3; 5 for FEVER, 10 otherwise)",
        "an edit that does not succeed": "its patch is kept, as released",
    }
    released = PatchConfig()
    changed = {
        name: value
        for name in sorted(OFFERED - {"key", "confidence", "eps", "copies", "remember"})
        if (value := getattr(spec, name)) != getattr(released, name)
    }
    other = ", ".join(f"{name} {value:g}" for name, value in changed.items())
    chosen["training of a patch"] = f"as released, but for {other}" if other else "as released"
    tuned = TuningConfig()
    as_released = (spec.tuning_lr, spec.tuning_steps) == (tuned.lr, tuned.max_steps)
    chosen["fine-tuning"] = (
        f"Adam, learning rate {spec.tuning_lr:g}, at most {spec.tuning_steps} steps of the last feed-forward network's "
        "matrices until the edit is right" + (", as released" if as_released else "")
    )
    return chosen
