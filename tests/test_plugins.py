"""Components from outside the package: found, recorded, and refused with file and line."""

import sys
import textwrap

import pytest
from tiny_run import tiny_config

from fedprofit import plugins
from fedprofit.algorithm.base import AlgorithmSettings
from fedprofit.config.component import FAMILIES, all_families
from fedprofit.config.file import from_mapping, to_yaml
from fedprofit.core.errors import UserError
from fedprofit.runs.run import run

GOOD = '''
from fedprofit.local.optimizer import Sgd


class Halved(Sgd, kind="halved"):
    """SGD at half the rate."""

    share: float = 0.5
    """Factor of the rate."""

    def step(self, parameter, gradient, moments, steps):
        return parameter - self.share * self.rate * gradient, {}
'''

OPTIMIZER = '''
from fedprofit.local.optimizer import ClientOptimizerSettings


class Still(ClientOptimizerSettings, kind="still"):
    """Does not say how a parameter moves."""
'''

REDUCER = '''
from fedprofit.server.steps.base import Reducer


class Nothing(Reducer, kind="nothing"):
    """Reduces nothing."""
'''


FAILS = '''
from fedprofit.local.optimizer import ClientOptimizerSettings


class Fails(ClientOptimizerSettings, kind="fails"):
    """Raises an error in its second step."""

    def step(self, parameter, gradient, moments, steps):
        if int(steps.max()) > 1:
            raise KeyError("rate")
        return parameter, {}
'''

EXPLODES = '''
from fedprofit.algorithm.fedavg import FedAvg


class Explodes(FedAvg, kind="explodes"):
    """Returns NaN."""

    def build(self, context):
        from dataclasses import replace

        inner = super().build(context)

        def round(state, cohort, context):
            after, done = inner.round(state, cohort, context)
            params = {key: value * float("nan") for key, value in after.params.items()}
            return replace(after, params=params), done

        return replace(inner, round=round)
'''


def configuration(client, **more):
    algorithm = {"kind": "fedavg", "steps": 1, "client": client}
    return {
        "name": "demo",
        "data": {"source": {"kind": "lexicon"}},
        "training": {"algorithms": [algorithm]},
        **more,
    }


@pytest.fixture(autouse=True)
def unregistered(monkeypatch):
    """Remove what a test registers and imports."""
    for family in all_families():
        monkeypatch.setattr(family, "kinds", dict(family.kinds))
    monkeypatch.setattr(plugins, "_files", {})
    monkeypatch.setattr(plugins, "_searched", [])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith((plugins.PREFIX, "my_halved", "installed_halved")):
            del sys.modules[name]


def write(folder, source, name="mine.py"):
    path = folder / name
    path.write_text(textwrap.dedent(source), encoding="utf-8")
    return path


def test_file_adds_kind_for_configurations(tmp_path):
    plugins.load_files([write(tmp_path, GOOD)])
    config = from_mapping(configuration({"kind": "halved", "rate": 0.1, "share": 0.25}))
    client = config.training.algorithms[0].client
    assert (type(client).__name__, client.rate, client.share) == ("Halved", 0.1, 0.25)
    from fedprofit.core import yaml_text

    assert from_mapping(yaml_text.load(to_yaml(config))) == config
    ((name, origin),) = plugins.used_plugins(config).items()
    assert name == "client optimizer halved"
    assert origin.startswith("mine.py, sha256 ")


def test_module_is_imported_when_configuration_names_it(tmp_path, monkeypatch):
    write(tmp_path, GOOD, "my_halved.py")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="there is no client optimizer 'halved'"):
        from_mapping(configuration({"kind": "halved"}))
    config = from_mapping(configuration({"kind": "halved"}, plugins=["my_halved"]))
    assert config.training.algorithms[0].client.kind == "halved"
    assert plugins.used_plugins(config)["client optimizer halved"].startswith("my_halved, sha256 ")


def test_installed_package_is_searched_for_unknown_kind(tmp_path, monkeypatch):
    write(tmp_path, GOOD, "installed_halved.py")
    facts = tmp_path / "installed_halved-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: installed-halved\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[fedprofit.plugins]\nhalved = installed_halved\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = from_mapping(configuration({"kind": "halved"}))
    assert config.training.algorithms[0].client.kind == "halved"


def test_sources_load_when_file_is_absent(tmp_path):
    path = write(tmp_path, GOOD)
    plugins.load_files([path])
    (file,) = plugins.loaded_files()
    path.unlink()
    del sys.modules[file.module]
    plugins._files.clear()
    del FAMILIES["client optimizer"].kinds["halved"]
    plugins.load_sources([file])
    assert from_mapping(configuration({"kind": "halved"})).training.algorithms[0].client.share == 0.5


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "import nothing_of_the_kind\n",
            "No module named 'nothing_of_the_kind', {path}:1",
        ),
        ("x = 1\ny = x +\n", "SyntaxError: invalid syntax"),
        (GOOD + "\nraise RuntimeError\n", "(RuntimeError, {path}:14)"),
        (GOOD.replace("halved", "sgd"), "registers the client optimizer 'sgd', which already exists"),
        (OPTIMIZER, "the client optimizer 'still' has no method step or build. Define it"),
        (REDUCER, "the aggregation step 'nothing' has no method reduce or update. Define it"),
        (GOOD.replace('"""SGD at half the rate."""', ""), "the client optimizer 'halved' has no docstring"),
        (
            GOOD.replace("share: float", "share: Unknown"),
            "name 'Unknown' is not defined, {path}:8",
        ),
        (GOOD.replace("share: float = 0.5", "rate = 0.5"), "PydanticUserError: "),
    ],
)
def test_broken_plugin_names_file_and_line(tmp_path, source, reason):
    path = write(tmp_path, source)
    with pytest.raises(UserError) as caught:
        plugins.load_files([path])
    assert str(path) in str(caught.value)
    assert reason.format(path=path) in str(caught.value)


def test_load_files_names_absent_file(tmp_path):
    with pytest.raises(UserError, match=r"--plugin .*none.py: cannot be read"):
        plugins.load_files([tmp_path / "none.py"])


def test_config_names_absent_module():
    with pytest.raises(UserError, match=r"plugins: the module 'no_such_module': cannot be loaded"):
        from_mapping(configuration({}, plugins=["no_such_module"]))


def test_config_names_wrong_field_of_plugin(tmp_path):
    plugins.load_files([write(tmp_path, GOOD)])
    with pytest.raises(UserError, match=r"'training.algorithms.0.client.share': should be a number"):
        from_mapping(configuration({"kind": "halved", "share": "x"}))
    with pytest.raises(UserError, match=r"unknown key 'training.algorithms.0.client.shar'.*'share'"):
        from_mapping(configuration({"kind": "halved", "shar": 1}))


def test_class_replaces_itself_when_defined_again():
    for steps in (1, 2):

        class Again(AlgorithmSettings, kind="again"):
            """Defined in a notebook cell that runs twice."""

            number: int = steps

            def build(self, experiment):
                raise AssertionError("only registered")

    assert FAMILIES["algorithm"].find("again")().number == 2


def test_section_without_kind_has_default_kind(tmp_path):
    source = (
        GOOD
        + """

from fedprofit.personalization.finetune import FineTune


class Half(FineTune, kind="half"):
    \"\"\"Fine-tuning by half steps.\"\"\"

    client: Sgd = Halved(rate=0.2)
    \"\"\"The optimizer.\"\"\"
"""
    )
    plugins.load_files(
        [
            write(
                tmp_path,
                source.replace("client: Sgd", "client: ClientOptimizerSettings").replace(
                    "import Sgd", "import ClientOptimizerSettings, Sgd"
                ),
            )
        ]
    )
    tuning = {"kind": "half", "steps": 1, "client": {"rate": 0.1}}
    config = from_mapping(configuration({}, personalization=[tuning]))
    assert config.personalization[0].client.kind == "halved"
    assert config.personalization[0].client.rate == 0.1


def test_plugin_with_builtin_kind_is_named_first(tmp_path, monkeypatch):
    family = FAMILIES["client optimizer"]
    path = write(tmp_path, GOOD.replace("halved", "adam"))
    with pytest.raises(UserError) as caught:
        plugins.load_files([path])
    assert str(caught.value).startswith(str(path))
    assert family.find("adam").is_built_in()


def test_recorded_chain_is_read_without_its_plugin():
    from fedprofit.config.component import reading_records

    mapping = configuration({})
    mapping["training"]["algorithms"][0]["aggregate"] = [{"kind": "unheard_of", "drop": 1}]
    with pytest.raises(UserError, match="there is no aggregation step 'unheard_of'"):
        from_mapping(mapping)
    with reading_records():
        (step,) = from_mapping(mapping).training.algorithms[0].aggregate
    assert (step.kind, step.drop) == ("unheard_of", 1)


def run_with(algorithm, folder):
    """Run a tiny configuration with one algorithm; return the error."""
    config = tiny_config(folder)
    config["training"]["algorithms"] = [algorithm]
    with pytest.raises(UserError) as caught:
        run(from_mapping(config), folder / "out")
    return str(caught.value)


def test_exception_in_plugin_names_file_line_and_method(tmp_path):
    path = write(tmp_path, FAILS)
    plugins.load_files([path])
    algorithm = {"kind": "fedavg", "steps": 2, "name": "a", "client": {"kind": "fails", "rate": 0.1}}
    message = run_with(algorithm, tmp_path)
    assert message == f"{path}:10, in Fails.step: raised KeyError: 'rate'. Correct the plug-in."
    assert "Traceback" in (tmp_path / "out" / "run.log").read_text()


def test_nan_of_plugin_names_file_and_line(tmp_path):
    path = write(tmp_path, EXPLODES)
    plugins.load_files([path])
    message = run_with({"kind": "explodes", "steps": 1, "name": "a"}, tmp_path)
    assert message.startswith(f"{path}:5: algorithm 'a': round 1: ")
    assert "is not finite" in message


def test_exception_of_package_is_not_blamed_on_plugin(tmp_path):
    """The plug-in calls a function of the package, which raises."""
    source = FAILS.replace('raise KeyError("rate")', "nearest(None, [])")
    plugins.load_files([write(tmp_path, f"from fedprofit.core.errors import nearest\n{source}")])
    config = tiny_config(tmp_path)
    client = {"kind": "fails", "rate": 0.1}
    config["training"]["algorithms"] = [{"kind": "fedavg", "steps": 2, "name": "a", "client": client}]
    with pytest.raises(TypeError) as caught:
        run(from_mapping(config), tmp_path / "out")
    assert [entry.name for entry in caught.traceback][-2:] == ["nearest", "cut"]
    assert "in step" in (tmp_path / "out" / "run.log").read_text()
