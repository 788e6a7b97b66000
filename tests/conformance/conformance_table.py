"""The table of the conformance test: one row per component, and the checks of each family.

To add a component: add a row to `ROWS` if its defaults are not enough. To add a family: write a file
`checks_FAMILY.py` with functions `check_NAME(component)` that assert, and name it in `FAMILIES`.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from inspect import getmembers, isfunction
from typing import Any

from examples_plugins import load_examples

from fedprofit.config.component import FAMILIES as REGISTRY, Component

Check = Callable[[Component], None]

# The families that are tested, and the modules of their checks; all have those of `checks_every`, too.
FAMILIES = {
    "algorithm": "checks_algorithm",
    "aggregation step": "checks_step",
    "client optimizer": "checks_client_optimizer",
    "server optimizer": "checks_server_optimizer",
}

# Fields that a component needs in addition to its defaults, by family and kind.
ROWS: dict[tuple[str, str], dict[str, Any]] = {
    ("algorithm", "fedavg"): {"steps": 2},
    ("algorithm", "scaffold"): {"steps": 2},
    ("algorithm", "ditto"): {"steps": 2},
    ("client optimizer", "sgd"): {"rate": 0.1, "weight_decay": 0.01},
    ("client optimizer", "momentum"): {"weight_decay": 0.01},
    ("client optimizer", "adamw"): {"weight_decay": 0.1},
    ("aggregation step", "trimmed_mean"): {"share": 0.3},
}


def components() -> list[Component]:
    """Return one component of every kind that is built in or an example plug-in."""
    import fedprofit.config.run  # noqa: F401  imports the base of every family

    load_examples()
    found = []
    for name in FAMILIES:
        for kind, component in sorted(REGISTRY[name].all_kinds().items()):
            if component.is_built_in() or component.__module__.startswith("fedprofit_plugin_"):
                found.append(component.model_validate({"kind": kind, **ROWS.get((name, kind), {})}))
    return found


def checks_of(family: str) -> dict[str, Check]:
    """Return the checks of a family, by name."""
    modules = [import_module(name) for name in ("checks_every", FAMILIES[family])]
    return {
        name.removeprefix("check_"): check
        for module in modules
        for name, check in getmembers(module, isfunction)
        if name.startswith("check_") and check.__module__ == module.__name__
    }


def cells() -> Iterator[tuple[Component, str, Check]]:
    """Yield every cell of the table: component, name of the check, check."""
    for component in components():
        for name, check in checks_of(component.family.name).items():
            yield component, name, check
