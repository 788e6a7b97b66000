"""Test that registry records are complete and that errors name the nearest backbone."""

import re

import pytest

from fedprofit.backbone.registry import DEFAULT, REGISTRY, lookup
from fedprofit.core.errors import UserError


@pytest.mark.parametrize("record", REGISTRY.values(), ids=REGISTRY)
def test_registry_records_pin_versions_and_hashes(record):
    assert lookup(record.name) is record
    assert re.fullmatch(r"[0-9a-f]{64}", record.sha256)
    assert all(re.fullmatch(r"[0-9a-f]{64}", wheel.sha256) for wheel in record.wheels)
    assert all("==" in wheel.requirement for wheel in record.wheels)
    assert bool(record.wheels) != bool(re.fullmatch(r"[0-9a-f]{40}", record.revision))
    assert min(record.download_bytes, record.disk_bytes) > 1e6
    assert record.licence == "Apache-2.0" or record.terms
    assert "\n" not in record.description


def test_registry_names_have_different_weights():
    assert len({record.sha256 for record in REGISTRY.values()}) == len(REGISTRY)
    assert DEFAULT in REGISTRY


def test_lookup_suggests_nearest_name():
    with pytest.raises(UserError, match="did you mean 'smollm2-135m-q4'"):
        lookup("smollm2-135m-q8")
