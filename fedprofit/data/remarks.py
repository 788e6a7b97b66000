"""Remarks on a pool's rows and clients: duplicates, conflicts and look-alikes; none is an error."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedprofit.data.splits import Ints, codes, same_input
from fedprofit.data.tables.reading import Remark, listed


def remarks_on(pool: pa.Table) -> list[Remark]:
    """Count duplicate rows and inputs with several targets, and name client ids that look alike."""
    return [*_duplicates(pool), *_look_alikes(pool["client"])]


def _duplicates(pool: pa.Table) -> list[Remark]:
    question = same_input(pool)
    _, target = codes(pc.binary_join(pool["targets"], "\x1f"))
    _, client = codes(pool["client"])
    _, own_question = np.unique(client * (question.max() + 1) + question, return_inverse=True)
    targets = int(target.max()) + 1

    def several(question: Ints) -> tuple[int, int]:
        """Count distinct pairs of question and target, and questions with several targets."""
        pairs = pc.unique(pa.array(question * targets + target)).to_numpy()
        return len(pairs), int((np.bincount(pairs // targets) > 1).sum())

    different, within = several(own_question)
    _, conflicts = several(question)
    repeated, found = pool.num_rows - different, list[Remark]()
    if repeated:
        found.append(("duplicate rows", f"{repeated} of {pool.num_rows} (same client, input and target)"))
    if conflicts:
        text = f"{conflicts} inputs with different targets ({within} of them within one client)"
        found.append(("conflicting rows", text))
    return found


def _look_alikes(clients: pa.ChunkedArray) -> list[Remark]:
    """Name client ids that differ only in composition, invisible characters, case or white space."""
    ids = pc.unique(clients).drop_null()
    seen = pc.utf8_lower(pc.utf8_normalize(ids, form="NFKC"))
    seen = pc.replace_substring_regex(seen, pattern=r"\p{Cf}+", replacement="")
    seen = pc.utf8_trim_whitespace(pc.replace_substring_regex(seen, pattern=r"\s+", replacement=" "))
    counts = pc.value_counts(seen)
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if not len(twice):
        return []
    groups = pa.table({"seen": seen, "id": ids}).filter(pc.is_in(seen, twice))
    groups = groups.sort_by([("seen", "ascending"), ("id", "ascending")])
    alike: dict[str, list[str]] = {}
    for row in groups.to_pylist():
        alike.setdefault(row["seen"], []).append(ascii(row["id"]))
    names = (" and ".join(group) for group in alike.values())
    return [("clients that look alike", f"{listed(names)}; they are different clients")]
