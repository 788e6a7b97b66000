"""The pool: the Arrow table that every data source returns, with a row per instance.

A source reads only texts. Tokens, and clients and splits that the source does not name, are made later
(`store.py`, `partition.py`) by the same code for every source.
"""

import hashlib
from typing import Literal

import pyarrow as pa

POOL_SCHEMA = pa.schema(
    [
        ("task", pa.string()),  # the task's name; heterogeneity is counted over it
        ("category", pa.string()),  # a group of tasks; "" if the source has none
        ("definition", pa.string()),  # the instruction shared by a task's instances; may be ""
        ("positives", pa.list_(pa.struct([("input", pa.string()), ("output", pa.string())]))),
        ("input", pa.string()),
        ("targets", pa.list_(pa.string())),  # one or more references, none empty
        ("split", pa.string()),  # "train", "validation", "test", or null: made by seed
        ("client", pa.string()),  # the owner, or null: made by a partition
    ]
)
# A column that a pool may have besides: the group of the row's client, as the source names it, or "unseen"
# for test rows of no client.
GROUP = pa.field("group", pa.string())
UNSEEN = "unseen"
Split = Literal[
    "train", "validation", "test"
]  # of a client's examples; groups of clients have the same names
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def rows_hash(pool: pa.Table) -> str:
    """Return a short hash of a pool's rows."""
    digest = hashlib.sha256()
    for batch in pool.combine_chunks().to_batches(max_chunksize=65536):
        digest.update(batch.serialize())
    return digest.hexdigest()[:16]
