"""`lexicon`: tasks from facts in installed Python packages; nothing is downloaded.

The tasks have the form of Super-NaturalInstructions (a definition, two examples, instances with one
or more references) and come in groups with the same inputs: the same country is asked for its
capital in one task and for its currency in another. Clients with different tasks of a group
therefore have conflicting gradients for a shared prompt, which is what the benchmark studies.

    countries.py   a country's capital, continent, currency, codes and names in other languages
    cities.py      a city's or an airport's country, currency, time zone, code
    languages.py   a language's code and names in other languages
    numbers.py     a number in words, in Roman numerals, in binary
    dates.py       a date's weekday and other notations
    words.py       a noun's plural and its letters rearranged; programs over lists of nouns
    emojis.py      an emoji's name in four languages
"""

from collections.abc import Iterable, Sequence

import pyarrow as pa

from fedprofit.core.errors import UserError, nearest
from fedprofit.core.seeding import numpy_generator
from fedprofit.data.lexicon import cities, countries, dates, emojis, languages, numbers, words
from fedprofit.data.lexicon.published import INSTANCES, check_rows
from fedprofit.data.lexicon.task import Group, Task
from fedprofit.data.pool import POOL_SCHEMA

GROUPS: tuple[Group, ...] = (
    *countries.GROUPS,
    *cities.GROUPS,
    *languages.GROUPS,
    *numbers.GROUPS,
    *dates.GROUPS,
    *words.GROUPS,
    *emojis.GROUPS,
)
TASKS: dict[str, Task] = {task.name: task for group in GROUPS for task in group.tasks}
EXAMPLES = 2
# Assigned along the shuffled inputs: 60, 20 and 20 percent, for every number of instances.
SPLIT_CYCLE = ("train", "validation", "test", "train", "train")


def task_names() -> list[str]:
    """List the tasks in the order of the table.

    >>> task_names()[:2]
    ['country_capital', 'country_continent']
    """
    return list(TASKS)


def category_names() -> list[str]:
    """List the categories, alphabetically.

    >>> category_names()[:3]
    ['codes', 'dates', 'geography']
    """
    return sorted({task.category for task in TASKS.values()})


def read(
    tasks: Sequence[str] = (),
    categories: Sequence[str] = (),
    instances: int = 240,
    verify: bool = True,
) -> pa.Table:
    """Make the pool table of the selected tasks.

    `tasks` and `categories` restrict the selection (empty: all; both: tasks that match both). A task has at
    most `instances` rows, fewer if the packages contain fewer facts. Inputs are drawn by group: tasks with
    the same inputs have each input in the same split, so that no test input occurs in training under
    another task of its group. A smaller `instances` gives the first rows of a larger one. The same package
    versions give the same table.

    Raises `UserError` for an unknown task or category, for a selection without tasks, for fewer
    than three instances (one per split), if a package of the extra `lexicon` is missing, and, if `verify` is
    set, if a task's rows differ from the published ones (`published.py`).

    >>> read(tasks=["country_capital"], instances=5).column("split").to_pylist()
    ['train', 'validation', 'test', 'train', 'train']
    """
    if instances < len(set(SPLIT_CYCLE)):
        raise UserError(
            f"The data source 'lexicon' needs at least 3 instances a task, one for each of the splits; "
            f"instances is {instances}. Set it to 3 or more."
        )
    _require("task", tasks, TASKS)
    _require("category", categories, category_names())
    rows = [
        row
        for group in GROUPS
        for task in group.tasks
        if (not tasks or task.name in tasks) and (not categories or task.category in categories)
        for row in _rows(group, task, instances, verify)
    ]
    if not rows:
        raise UserError(
            f"No task of the data source 'lexicon' is both among the tasks {list(tasks)} and in the "
            f"categories {list(categories)}. Leave one of the two empty."
        )
    return pa.Table.from_pylist(rows, schema=POOL_SCHEMA)


def _require(kind: str, names: Sequence[str], known: Iterable[str]) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            raise UserError(
                f"The data source 'lexicon' has no {kind} {name!r}; {nearest(name, known)}. "
                f"Correct the name, or leave it out to take every {kind}."
            )


def _rows(group: Group, task: Task, instances: int, verify: bool) -> list[dict[str, object]]:
    rows = _first_rows(group, task, max(instances, INSTANCES))
    if verify:
        check_rows(task.name, rows)
    return rows[:instances]


def _first_rows(group: Group, task: Task, instances: int) -> list[dict[str, object]]:
    items = group.items()
    inputs = list(items)
    order = numpy_generator(0, "lexicon", group.name).permutation(len(inputs))
    shuffled = [inputs[index] for index in order[: EXAMPLES + instances]]
    positives = [{"input": text, "output": task.answer(items[text])[0]} for text in shuffled[:EXAMPLES]]
    return [
        {
            "task": task.name,
            "category": task.category,
            "definition": task.definition,
            "positives": positives,
            "input": text,
            "targets": task.answer(items[text]),
            "split": SPLIT_CYCLE[position % len(SPLIT_CYCLE)],
            "client": None,
        }
        for position, text in enumerate(shuffled[EXAMPLES:])
    ]
