"""Write the hashes of the embedded tasks' rows, after an intended change of a task or a package."""

from collections import defaultdict

from fedprofit.core.files import write_json
from fedprofit.data import lexicon
from fedprofit.data.lexicon.published import FILE, INSTANCES, hash_of

if __name__ == "__main__":
    found = defaultdict(list)
    for row in lexicon.read(instances=INSTANCES, verify=False).to_pylist():
        found[row["task"]].append(row)
    write_json(FILE, {task: hash_of(rows) for task, rows in found.items()})
