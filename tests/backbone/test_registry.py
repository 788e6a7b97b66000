"""The registry's records are whole, and a mistyped name is answered with the nearest."""

import re

import pytest

from fedprofit.backbone.registry import DEFAULT, REGISTRY, lookup
from fedprofit.core.errors import UserError


@pytest.mark.parametrize("record", REGISTRY.values(), ids=REGISTRY)
def test_every_record_pins_what_it_fetches(record):
    assert lookup(record.name) is record
    assert re.fullmatch(r"[0-9a-f]{64}", record.sha256)
    assert all(re.fullmatch(r"[0-9a-f]{64}", wheel.sha256) for wheel in record.wheels)
    assert all("==" in wheel.requirement for wheel in record.wheels)
    assert bool(record.wheels) != bool(re.fullmatch(r"[0-9a-f]{40}", record.revision))
    assert min(record.download_bytes, record.disk_bytes) > 1e6
    assert record.licence == "Apache-2.0" or record.terms
    assert "\n" not in record.description


def test_no_two_names_share_weights():
    assert len({record.sha256 for record in REGISTRY.values()}) == len(REGISTRY)
    assert DEFAULT in REGISTRY


def test_mistyped_name_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'smollm2-135m-q4'"):
        lookup("smollm2-135m-q8")
