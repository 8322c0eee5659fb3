"""The built-in claims for fact verification: sentences that are right or wrong, in all built-in languages."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.data.loaders.atlas import atlas_file
from orchestrator.data.loaders.labelled import LABELLED_SCHEMA, LabelledLoader, LabelledPart
from orchestrator.errors import Problems, did_you_mean

CLAIMS_SCHEMA = pa.schema(
    [
        pa.field("claim_uuid", pa.string()),
        pa.field("fact_uuid", pa.string()),
        pa.field("relation", pa.string()),
        pa.field("language", pa.string()),
        pa.field("claim", pa.string()),
        pa.field("label", pa.bool_()),
        pa.field("rephrasings", pa.list_(pa.string())),
    ]
)
"""One row per claim and language. `claim_uuid` names the claim in all languages, `fact_uuid` the built-in fact it is
about; `label` is true if the claim is right; `rephrasings` say the same in other words (empty except in English)."""

CLAIM_SHARES: Mapping[str, float] = {"train": 0.6, "dev": 0.1, "edit": 0.15, "test": 0.15}
"""The share of the subjects that each split of the claims gets."""


def load_claims(languages: Sequence[str] | None = None) -> pa.Table:
    """The claims of some languages (None: all), as CLAIMS_SCHEMA.

    Raises:
        UserError: every language that the claims do not have.
    """
    claims = pq.read_table(atlas_file("claims.parquet")).cast(CLAIMS_SCHEMA)
    if languages is None:
        return claims
    known = claims["language"].unique().to_pylist()
    problems = Problems()
    for language in languages:
        if language not in known:
            problems.add(f"The built-in claims have no language {language!r}.{did_you_mean(language, known)}")
    problems.raise_if_any()
    return claims.filter(pc.is_in(claims["language"], value_set=pa.array(languages, pa.string())))


class ClaimsLoader(LabelledLoader):
    """The built-in claims as labelled texts: 0 wrong, 1 right.

    The source has no splits: subjects are dealt out by a hash of their identifier, the same in every language, so that
    no subject of one split is in another.
    """

    kind = "atlas"
    form = "atlas"
    version = 1
    labels = ("wrong", "right")
    needs_location = False

    def inputs(self) -> Sequence[Path]:
        return [atlas_file("claims.parquet"), atlas_file("facts.parquet")]

    def load(self) -> Iterator[LabelledPart]:
        facts = pq.read_table(atlas_file("facts.parquet"), columns=["uuid", "sub_uri"]).to_pylist()
        subjects = {fact["uuid"]: fact["sub_uri"] for fact in facts}
        claims = load_claims().sort_by([("relation", "ascending"), ("claim_uuid", "ascending")])
        splits = pa.array([_split_of(subjects[fact]) for fact in claims["fact_uuid"].to_pylist()])
        for language in sorted(claims["language"].unique().to_pylist()):
            for split in CLAIM_SHARES:
                chosen = pc.and_(pc.equal(splits, split), pc.equal(claims["language"], language))
                yield LabelledPart(split, language, _labelled(claims.filter(chosen)))


def _split_of(subject: str) -> str:
    """The split of a subject: its hash as a number from 0 to 1 falls into one of the shares."""
    place = int.from_bytes(hashlib.sha256(subject.encode()).digest()[:8]) / 2**64
    bounds = zip(CLAIM_SHARES, itertools.accumulate(CLAIM_SHARES.values()), strict=True)
    return next((split for split, bound in bounds if place < bound), "test")


def _labelled(claims: pa.Table) -> pa.Table:
    rows = claims.num_rows
    columns = {
        "uuid": claims["claim_uuid"],
        "text": claims["claim"],
        "pair": pa.nulls(rows, pa.string()),
        "label": claims["label"].cast(pa.int8()),
        "rephrasings": claims["rephrasings"],
    }
    return pa.table(columns, schema=LABELLED_SCHEMA)
