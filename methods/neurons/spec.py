"""What a study of knowledge neurons is asked to do. The choices that the papers leave open have a stated default."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from orchestrator.spec import SweepSpec


class NeuronSpec(SweepSpec):
    """Knowledge neurons and representation similarity, with and without LRP2 (Xu et al. 2023, section 5)."""

    option_group: ClassVar[str] = "knowledge neurons"

    model: str = Field("atlas-bert", description="built-in name, local folder or hub id; weights as safetensors")
    facts: str = Field(
        "atlas",
        description="atlas, mlama:<zip or folder>, bmlama:<tsv folder or archive>, xfactr:<folder> or hub:<id>",
    )
    pools: Path | None = Field(
        None,
        description="for xfactr: the published mLAMA, whose labels serve the languages other than English",
    )
    languages: tuple[str, ...] | None = Field(None, description="languages to study; default: all of the facts'")
    relations: tuple[str, ...] | None = Field(None, description="relations to use; default: all (mLAMA: T-REx)")
    max_facts: int | None = Field(None, ge=1, description="at most so many facts, the same ones in every language")
    split: Literal["seen", "withheld"] | None = Field(
        None, description="built-in facts only: those the built-in models saw, or did not see, in the language"
    )
    pivot: str = Field("en", description="language that the others are compared with and projected into")

    pairs: tuple[str, ...] | None = Field(
        None, description="layers of LRP2: zh:4/10,ja:3/11 for some languages, 4/10 for all that have no other"
    )
    pairs_from: Path | None = Field(
        None, description="folder of a finished layer search with the same model: the best pair of every language in it"
    )
    control: Literal["none", "random"] = Field(
        "none", description="to compare with: random: vectors in random directions with the norms of the real ones"
    )
    sentences: str = Field(
        "queries",
        description="text for the language vectors: sentences:<folder> with one file per language, or 'queries' for "
        "the facts' own sentences",
    )
    max_sentences: int = Field(10_000, ge=1, description="sentences per language for its vectors")
    specials: Literal["include", "exclude"] = Field(
        "include", description="whether special tokens count in the language vectors"
    )
    last_layer: Literal["normed", "raw"] = Field(
        "normed", description="layer L of a model with a final norm: after it or before it"
    )

    rule: Literal["midpoint", "left", "right", "inclusive"] = Field(
        "midpoint", description="points of the integral: midpoint has the smallest error, the others are in the papers"
    )
    steps: int = Field(20, ge=2, description="points of the integral")
    objects: Literal["all", "single"] = Field(
        "all", description="objects of several tokens: average their tokens' probabilities, or leave them out"
    )
    selection: Literal["frequent", "shared"] = Field(
        "frequent",
        description="frequent: in every layer the neurons most often among the strongest of a prompt (Xu et al.); "
        "shared: those above a threshold in most prompts of a relation (Dai et al.)",
    )
    top: int = Field(20, ge=1, description="frequent: neurons of a prompt and of a relation in each layer")
    overlap: Literal["share", "jaccard"] = Field(
        "share", description="common neurons over the larger set, or over the union"
    )
    effects: bool = Field(True, description="switch the neurons found off and double them, to see what they do")
    similar_facts: int = Field(1000, ge=2, description="parallel queries whose representations are compared, at most")
    bootstrap: int = Field(2000, ge=100, description="resamples of relations for the intervals")
    dtype: Literal["float32", "float64"] = Field("float32", description="of weights and states")
