"""What a layer search is asked to do. The choices that the papers leave open are fields with a stated default."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from orchestrator.options import flag_of
from orchestrator.spec import SweepSpec

if TYPE_CHECKING:
    from methods.lrp2.probes import ProbeOptions


class LRP2Spec(SweepSpec):
    """The layer search of Xu et al. (2023): every language, every pair of layers (i, j)."""

    option_group: ClassVar[str] = "the layer search"

    model: str = Field("atlas-bert", description="built-in name, local folder or hub id; weights as safetensors")
    facts: str = Field(
        "atlas",
        description="atlas, mlama:<zip or folder>, bmlama:<tsv folder or archive>, xfactr:<folder> or hub:<id>",
    )
    pools: Path | None = Field(
        None,
        description="candidate objects for mlama (mlama_objects.zip); default: the objects seen in the facts. For "
        "xfactr: the published mLAMA, whose labels serve the languages other than English",
    )
    languages: tuple[str, ...] | None = Field(None, description="languages to search; default: all of the facts'")
    relations: tuple[str, ...] | None = Field(None, description="relations to use; default: all (mLAMA: T-REx)")
    max_facts: int | None = Field(None, ge=1, description="at most so many facts, the same ones in every language")
    split: Literal["seen", "withheld"] | None = Field(
        None, description="built-in facts only: those the built-in models saw, or did not see, in the language"
    )
    sentences: str = Field(
        "queries",
        description="text for the language vectors: sentences:<folder> with one file per language, or 'queries' for "
        "the facts' own sentences",
    )
    max_sentences: int = Field(10_000, ge=1, description="sentences per language for its vectors")
    pivot: str = Field("en", description="language projected into")
    pairs: tuple[str, ...] | None = Field(None, description="layer pairs such as 4/10,1/2; default: all")

    probe: Literal["auto", "masked", "causal"] = Field("auto", description="how facts are asked; auto: as the model is")
    candidates: Literal["auto", "full", "sampled", "own"] = Field(
        "auto",
        description="pool of a query: all objects, a sample shared by all languages, or the source's own list; auto: "
        "own where the source has it, else full for masked and sampled for causal probes",
    )
    pool_size: int = Field(10, ge=2, description="size of a sampled pool, the right object included")
    score: Literal["mean", "sum", "object"] = Field(
        "mean", description="causal: mean or sum of the sentence's token log-probabilities, or the object's mean"
    )
    bos: bool = Field(True, description="causal: begin the sentence with the tokenizer's start token")
    specials: Literal["include", "exclude"] = Field(
        "include", description="whether special tokens count in the language vectors"
    )
    last_layer: Literal["normed", "raw"] = Field(
        "normed", description="layer L of a model with a final norm: after it or before it"
    )

    control: Literal["none", "random", "shuffled"] = Field(
        "none",
        description="a sweep in which LRP2 should do nothing, to compare with: vectors in random directions with the "
        "norms of the real ones, or those of another of the languages",
    )

    ties: Literal["strict", "fractional"] = Field(
        "strict", description="a right object that shares the top with t others counts 0, or 1/(1+t)"
    )
    pivot_reference: Literal["restricted", "full"] = Field(
        "restricted", description="Trans against the pivot's hits on the language's own facts, or on all facts"
    )
    criterion: Literal["trans", "acc"] = Field("trans", description="the score by which the best pair is chosen")
    folds: int = Field(5, ge=2, le=50, description="folds of subjects for the honest choice")
    bootstrap: int = Field(2000, ge=100, description="resamples for the confidence intervals")
    correction: Literal["holm", "bh", "none"] = Field(
        "holm", description="of p values over the languages: Holm, Benjamini-Hochberg or none"
    )
    null_draws: int = Field(
        200, ge=0, description="copies of the sweep with exchanged labels that measure what luck gives; 0: none"
    )

    search: Literal["lattice", "racing", "naive"] = Field(
        "lattice",
        description="lattice: exact and fast; racing: pairs are dropped once they cannot win; naive: the plain loop "
        "over pairs, for checking",
    )
    delta: float = Field(0.05, gt=0, lt=1, description="racing: the chance of dropping any pair wrongly")
    shard: int = Field(250, ge=10, description="racing: facts after which pairs are compared")
    keep: Literal["hits", "scores"] = Field("hits", description="what is stored per fact and pair; RankC needs scores")
    dtype: Literal["float32", "float64", "bfloat16"] = Field(
        "float32", description="of weights and states; bfloat16 is inexact: how many hits it changes is measured"
    )
    head_dtype: Literal["float32", "float64", "bfloat16"] | None = Field(
        None, description="of the logits; default: float32, or float64 with --dtype float64"
    )
    precision_sample: int = Field(
        64,
        ge=1,
        description="inexact dtypes: facts of a trial that are searched in float32 too, to count changed hits; with "
        "language vectors in float32 where the model fits a second time",
    )
    facts_per_trial: int = Field(
        5000, ge=100, description="a language with more facts is cut into several trials of about this size"
    )


def idle_options(spec: LRP2Spec, probe: ProbeOptions) -> list[str]:
    """A warning for each option that was given another value than its default and decides nothing in this sweep."""
    inexact = "bfloat16" in (spec.dtype, spec.head_dtype)
    idle = {
        "score": "a masked probe takes the mean over the object's pieces" if probe.kind == "masked" else None,
        "bos": "a masked probe takes its tokenizer's special tokens" if probe.kind == "masked" else None,
        "pool_size": None if probe.candidates == "sampled" else f"the pools are {probe.candidates}, not sampled",
        "delta": None if spec.search == "racing" else "it is for --search racing",
        "shard": None if spec.search == "racing" else "it is for --search racing",
        "precision_sample": None if inexact else "the arithmetic is exact",
    }
    given = {name for name in idle if getattr(spec, name) != LRP2Spec.model_fields[name].default}
    return [f"{flag_of(name)} decides nothing here: {why}." for name, why in idle.items() if why and name in given]
