"""Facts, pools, sentences and claims as content-addressed, memory-mapped Arrow shards."""

from orchestrator.data.atomic import folder_atomically, write_atomically
from orchestrator.data.claims import CLAIMS_SCHEMA, load_claims
from orchestrator.data.facts import FactSelection, FactStore, Pool, facts_beside, prepare_facts
from orchestrator.data.schema import FACTS_SCHEMA, OBJECT_SLOT, POOLS_SCHEMA, SUBJECT_SLOT
from orchestrator.data.sentences import SentenceStore, prepare_sentences

__all__ = [
    "CLAIMS_SCHEMA",
    "FACTS_SCHEMA",
    "OBJECT_SLOT",
    "POOLS_SCHEMA",
    "SUBJECT_SLOT",
    "FactSelection",
    "FactStore",
    "Pool",
    "SentenceStore",
    "facts_beside",
    "folder_atomically",
    "load_claims",
    "prepare_facts",
    "prepare_sentences",
    "write_atomically",
]
