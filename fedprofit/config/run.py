"""The configuration of a run: a typed, frozen record with a content hash.

Every key is checked (errors name the closest valid one), every value has a type and a range, and omitted
values have defaults. Each section is declared next to the code that it configures; sections about the whole
run are here. A configuration defines what a run computes. Output paths and display are arguments of the
command. `file.py` reads and writes configurations.
"""

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Tag, model_validator

from fedprofit.algorithm.base import AlgorithmSettings
from fedprofit.backbone.settings import BackboneConfig
from fedprofit.baseline.base import BaselineSettings
from fedprofit.baseline.copy_input import CopyInput
from fedprofit.baseline.in_context import InContext
from fedprofit.baseline.local import Central, Local
from fedprofit.baseline.majority import Majority
from fedprofit.config.base import ONE, SEVERAL, Count, Name, OneOrSeveral, Positive, Section
from fedprofit.core.files import content_hash
from fedprofit.data.settings import DataConfig
from fedprofit.evaluate.settings import EvaluationConfig
from fedprofit.personalization.base import PersonalizationSettings
from fedprofit.plugins import load_modules
from fedprofit.tuner.base import TunerSettings
from fedprofit.tuner.prompt import SoftPrompt


class TrainingConfig(Section):
    """Federated training of one prompt per algorithm."""

    rounds: Positive = 10
    cohort: Positive = 8  # clients per round; all clients if there are fewer
    evaluate_every: Positive = 5  # rounds between evaluations of the loss on the global validation set
    algorithms: tuple[AlgorithmSettings, ...]

    @model_validator(mode="after")
    def _something_to_train(self) -> Self:
        if not self.algorithms:
            raise ValueError("algorithms is empty; name at least one")
        trials = {name: len(entries) for name, entries in self.methods.items()}
        if len(set(trials.values())) > 1:
            found = ", ".join(f"{name} {count}" for name, count in trials.items())
            raise ValueError(f"algorithms: give every method the same number of trials ({found})")
        return self

    @property
    def methods(self) -> dict[str, list[AlgorithmSettings]]:
        """The trials of each method."""
        found: dict[str, list[AlgorithmSettings]] = {}
        for entry in self.algorithms:
            found.setdefault(entry.stands_for, []).append(entry)
        return found


# One baseline, or several candidates; one is selected on the validation clients.
Trials = Annotated[
    Annotated[BaselineSettings, Tag(ONE)] | Annotated[tuple[BaselineSettings, ...], Tag(SEVERAL)],
    OneOrSeveral,
]
DEFAULT_BASELINES: dict[str, BaselineSettings | tuple[BaselineSettings, ...] | None] = {
    "local": Local(name="local", steps=40),
    "central": Central(name="central", steps=40, batch_size=32),
    "majority": Majority(name="majority"),
    "copy_input": CopyInput(name="copy_input"),
    "in_context": InContext(name="in_context"),
}


def _completed(given: Any) -> Any:
    """Set default kinds and names, and add the default baselines that are missing."""
    if not isinstance(given, dict):
        return given

    def named(key: str, one: Any) -> Any:
        return {"kind": key, "name": key, **one} if isinstance(one, dict) else one

    if empty := [key for key, one in given.items() if one in ([], ())]:
        raise ValueError(f"{empty[0]} is an empty list. Give it a trial, or omit it with null")
    found = {
        key: tuple(named(key, entry) for entry in one) if isinstance(one, list | tuple) else named(key, one)
        for key, one in given.items()
    }
    return {**DEFAULT_BASELINES, **found}


Baselines = Annotated[dict[str, Trials | None], BeforeValidator(_completed)]


class Config(Section):
    """The configuration of a run."""

    name: Name
    seed: Count = 0
    backbone: BackboneConfig = BackboneConfig()
    data: DataConfig
    tuner: TunerSettings = SoftPrompt()
    training: TrainingConfig
    plugins: tuple[str, ...] = ()  # modules that define more components
    personalization: tuple[PersonalizationSettings, ...] = ()
    # By kind; null omits one. The base model and the federated prompt are always evaluated.
    baselines: Baselines = DEFAULT_BASELINES
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="before")
    @classmethod
    def _load_plugins(cls, given: Any) -> Any:
        names = given.get("plugins") if isinstance(given, dict) else None
        if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
            load_modules(names)
        return given

    @model_validator(mode="after")
    def _names_are_distinct(self) -> Self:
        for what, names in (
            ("training.algorithms", [a.name for a in self.training.algorithms]),
            ("training.algorithms and the baselines' trials", self.trained),
            ("personalization", [p.name for p in self.personalization]),
        ):
            if len(set(names)) < len(names):
                raise ValueError(f"{what}: two entries have the same name; names must be distinct")
        return self

    @model_validator(mode="after")
    def _stages_are_distinct(self) -> Self:
        """Reject pairs of names that are equal when joined by a hyphen: they name stages and prompts."""
        known: dict[str, tuple[str, str]] = {}
        for method in self.training.methods:
            for entry in self.personalizations(method):
                pair = (method, entry.name)
                other = known.setdefault("-".join(pair), pair)
                if other != pair:
                    raise ValueError(
                        f"personalization: {entry.name!r} of {method!r} and {other[1]!r} of {other[0]!r} "
                        f"would both be called {'-'.join(pair)!r}; rename one of the four"
                    )
        return self

    @model_validator(mode="after")
    def _personalized_algorithms_are_there(self) -> Self:
        there = self.training.methods
        for entry in self.personalization:
            unknown = [name for name in entry.algorithms or () if name not in there]
            if entry.algorithms == () or unknown:
                found = f"names {unknown[0]!r}" if unknown else "is empty"
                raise ValueError(
                    f"personalization: algorithms of {entry.name!r} {found}; name some of "
                    f"{', '.join(there)}, or omit it for all"
                )
        return self

    def personalizations(self, method: str) -> list[PersonalizationSettings]:
        """Return the personalizations of an algorithm, given its method name."""
        return [one for one in self.personalization if one.algorithms is None or method in one.algorithms]

    @property
    def baseline_trials(self) -> dict[str, list[BaselineSettings]]:
        """The trials of each requested baseline."""
        return {
            name: [one] if isinstance(one, BaselineSettings) else list(one)
            for name, one in self.baselines.items()
            if one is not None
        }

    @property
    def trained(self) -> list[str]:
        """The names with a training record: algorithms, and baselines with several trials."""
        several = [trials for trials in self.baseline_trials.values() if len(trials) > 1]
        return [one.name for one in self.training.algorithms] + [one.name for each in several for one in each]

    def in_type(self, dtype: str) -> "Config":
        """Replace the dtype `auto` with the resolved type."""
        if self.backbone.dtype != "auto":
            return self
        return self.model_copy(update={"backbone": self.backbone.model_copy(update={"dtype": dtype})})

    @property
    def hash(self) -> str:
        """Content hash, independent of the order of keys."""
        return content_hash(self.to_mapping())

    def to_mapping(self) -> dict[str, Any]:
        """Return the complete configuration, defaults included, as plain JSON-like values."""
        mapping: dict[str, Any] = self.model_dump(mode="json")
        return mapping
