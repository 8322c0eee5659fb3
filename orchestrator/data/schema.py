"""The Arrow schemas of facts and pools, and the rules that every prepared fact obeys.

A *fact* says that a relation holds between a subject and an object; the same fact has the same uuid in every language.
Its *query* in one language is the template with ``[X]`` replaced by the subject; ``[Y]`` marks the place of the object.
"""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = 1
"""Part of every content address: raised when prepared shards would look different."""

_WORD = pa.dictionary(pa.int32(), pa.string())

FACTS_SCHEMA = pa.schema(
    [
        pa.field("relation", _WORD, nullable=False),
        pa.field("uuid", pa.string(), nullable=False),
        pa.field("language", _WORD, nullable=False),
        pa.field("sub_uri", pa.string(), nullable=False),
        pa.field("obj_uri", pa.string(), nullable=False),
        pa.field("subject", pa.string(), nullable=False),
        pa.field("object", pa.string(), nullable=False),
        pa.field("template", _WORD, nullable=False),
        pa.field("split", _WORD, nullable=False),
        pa.field("candidates", pa.list_(pa.string())),
    ]
)
"""One row per fact of a language. `sub_uri` and `obj_uri` are "" where the source has none; `split` is "seen" or
"withheld" in the built-in facts and "" elsewhere; `candidates` is null unless the source gives this fact its own, which
then stand in the same order in every language."""

LOADED_SCHEMA = pa.schema(
    [
        field.with_type(pa.string()) if field.type == _WORD else field
        for field in FACTS_SCHEMA
        if field.name != "language"
    ]
)
"""What a loader yields: the same columns as plain strings, without the language, which it names once."""

POOLS_SCHEMA = pa.schema(
    [
        pa.field("relation", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("candidates", pa.list_(pa.string()), nullable=False),
        pa.field("uris", pa.list_(pa.string()), nullable=False),
    ]
)
"""One row per relation of a language. `candidates` are unique and sorted; `uris` are aligned, "" where unknown."""

GOOGLE_RE = frozenset({"place_of_birth", "place_of_death", "date_of_birth"})
"""Relations from Google-RE, which mLAMA publishes beside T-REx: prepared, but used only when they are named."""

SUBJECT_SLOT = "[X]"
OBJECT_SLOT = "[Y]"


def template_fault(template: str, *, subject_needed: bool = True) -> str | None:
    """What is wrong with a template, as the end of a sentence ("has no [Y]"), or None if it is right.

    A template has exactly one ``[Y]`` and exactly one ``[X]``; without `subject_needed` it may lack ``[X]``.
    """
    for slot, needed in ((SUBJECT_SLOT, subject_needed), (OBJECT_SLOT, True)):
        count = template.count(slot)
        if count > 1:
            return f"has {slot} {count} times"
        if count == 0 and needed:
            return f"has no {slot}"
    return None
