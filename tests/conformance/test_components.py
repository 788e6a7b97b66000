"""Every registered component, built in or an example plug-in, against the contract of its family."""

from inspect import signature

import pytest
from conformance_table import FAMILIES, ROWS, cells, components

CELLS = list(cells())


@pytest.mark.parametrize(
    ("component", "check"),
    [pytest.param(one, check, id=f"{one.family.name}-{one.kind}-{name}") for one, name, check in CELLS],
)
def test_component_conforms(component, check, tmp_path):
    given = (tmp_path,) if "folder" in signature(check).parameters else ()
    check(component, *given)


def test_table_has_a_row_for_every_kind():
    found = {(one.family.name, one.kind) for one in components()}
    assert found >= set(ROWS), "a row without a component"
    assert {family for family, _ in found} == set(FAMILIES)
