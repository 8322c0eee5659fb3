"""The built-in claims for fact verification: sentences that are right or wrong, in all built-in languages."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.data.loaders.atlas import atlas_file
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
