"""Checks of every component: documentation, and settings that survive YAML."""

import inspect
import json

from pydantic import TypeAdapter

from fedprofit.catalogue import field_texts, summary
from fedprofit.core import yaml_text


def check_documentation(component):
    kind = type(component)
    line = summary(kind)
    assert line, "the class has no summary"
    assert len(line) <= 110, "the summary is one line"
    assert kind.__doc__ != kind.__mro__[1].__doc__, "the summary is that of its base"
    lacking = set(kind.model_fields) - set(field_texts(kind))
    assert not lacking, f"fields without a text: {sorted(lacking)}"
    assert not inspect.isabstract(kind)


def mapping(component):
    return component.model_dump(mode="json")


def check_yaml_round_trip(component):
    base = next(one for one in type(component).__mro__ if one.__dict__.get("is_base"))
    again = TypeAdapter(base).validate_json(json.dumps(yaml_text.load(yaml_text.dump(mapping(component)))))
    assert again == component
    assert type(again) is type(component)
