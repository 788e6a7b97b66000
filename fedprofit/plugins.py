"""Plug-ins: loading of components that are defined outside the package.

A plug-in is a Python module that defines components (`config/component.py`). It is loaded from

- the entry points of installed packages in the group `fedprofit.plugins`, when a configuration names an
  unknown kind;
- a module that a configuration names: `plugins: [my_package.methods]`; it must be importable;
- a file named on the command line: `--plugin my_method.py`. A configuration cannot execute a file.

Processes and cluster nodes that compute a study's runs load the same files. A run's environment records each
component that is not built in, with its version and the hash of its source.
"""

import hashlib
import inspect
import linecache
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points, packages_distributions, version
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import CodeType
from typing import Any

from pydantic import BaseModel

from fedprofit.config.component import FAMILIES, SEARCHES, Component
from fedprofit.core.errors import UserError, first_line, is_out_of_memory

GROUP = "fedprofit.plugins"
PACKAGE = "fedprofit"
PREFIX = "fedprofit_plugin_"  # of the module name of a file


@dataclass(frozen=True)
class PluginFile:
    """A plug-in file from the command line, with its source for other processes."""

    path: str
    source: str

    @property
    def module(self) -> str:
        """The module name of the file.

        >>> PluginFile("here/my-method.py", "").module[:29]
        'fedprofit_plugin_my_method_e3'
        """
        stem = "".join(letter if letter.isidentifier() else "_" for letter in Path(self.path).stem)
        return f"{PREFIX}{stem}_{hashlib.sha256(self.source.encode()).hexdigest()[:8]}"


_files: dict[str, PluginFile] = {}  # by module
_searched: list[str] = []


def load_files(paths: Sequence[str | Path]) -> None:
    """Load files as plug-ins. Raise UserError, with file and line, if one fails."""
    for path in paths:
        try:
            source = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"--plugin {path}: cannot be read ({first_line(error)}). Give a Python file."
            ) from None
        load_sources([PluginFile(str(Path(path).absolute()), source)])


def load_sources(files: Sequence[PluginFile]) -> None:
    """Load plug-ins from another process; their files may be missing on this machine."""
    for file in files:
        if file.module not in _files:
            _load(f"the plug-in {file.path}", lambda file=file: _execute(file))  # type: ignore[misc]
            _files[file.module] = file


def loaded_files() -> list[PluginFile]:
    """Return the loaded files, so that other processes can load them."""
    return list(_files.values())


def load_modules(names: Sequence[str]) -> None:
    """Import the modules that a configuration names. Raise UserError if one fails."""
    for name in names:
        if name not in sys.modules:
            _load(f"plugins: the module {name!r}", lambda name=name: import_module(name))  # type: ignore[misc]


def load_installed() -> None:
    """Load the plug-ins of installed packages, once."""
    if not _searched:
        _searched.append(GROUP)
        for point in entry_points(group=GROUP):
            _load(f"the installed plug-in {_named(point)}", point.load)


SEARCHES.append(load_installed)


def _named(point: EntryPoint) -> str:
    return f"{point.name!r}" + (f" of {point.dist.name}" if point.dist else "")


def _execute(file: PluginFile) -> None:
    spec = spec_from_loader(file.module, loader=None, origin=file.path)
    assert spec is not None
    module = module_from_spec(spec)
    module.__file__ = file.path
    sys.modules[file.module] = module
    if not Path(file.path).exists():  # provide the source for tracebacks and `inspect`
        linecache.cache[file.path] = (len(file.source), None, file.source.splitlines(True), file.path)
    try:
        exec(compile(file.source, file.path, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[file.module]
        raise


def _load(what: str, load: Callable[[], object]) -> None:
    """Load a plug-in. Raise UserError with its name, the line and the reason if that fails."""
    try:
        load()
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{what}: cannot be loaded ({first_line(error, True)}{_line(error)}). Fix it, or remove it."
        ) from error


def _line(error: Exception) -> str:
    """Return where a plug-in raised an error: the last line outside of importlib and libraries."""
    if isinstance(error, SyntaxError) and error.filename:
        return f", {error.filename}:{error.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and "importlib" not in frame.filename
    ]
    own = [frame for frame in frames if "site-packages" not in frame.filename]
    return f", {own[-1].filename}:{own[-1].lineno}" if own else ""


@contextmanager
def blaming_plugins() -> Iterator[None]:
    """Turn an exception of a plug-in's code into a UserError with file, line and function.

    The innermost frame outside of libraries decides: an exception that this package raises for a call of a
    plug-in remains unchanged.
    """
    try:
        yield
    except Exception as error:
        found = None if isinstance(error, UserError) or is_out_of_memory(error) else _culprit(error)
        if found is None:
            raise
        raise UserError(f"{found}: raised {first_line(error, True)}. Correct the plug-in.") from error


def _culprit(error: Exception) -> str | None:
    """Return where a plug-in raised an error; None if it was not one."""
    registered = (kind for family in FAMILIES.values() for kind in family.kinds.values())
    foreign = {kind.__module__ for kind in registered if not kind.is_built_in()} | _files.keys()
    frames = traceback.walk_tb(error.__traceback__)
    named = [(str(frame.f_globals.get("__name__")), frame, line) for frame, line in frames]
    own = [one for one in named if one[0] in foreign or one[0].partition(".")[0] == PACKAGE]
    if not own or own[-1][0] not in foreign:
        return None
    _, frame, line = own[-1]
    return f"{frame.f_code.co_filename}:{line}, in {frame.f_code.co_qualname}"


def components_in(section: Any) -> Iterator[Component]:
    """Yield every component of a configuration, at any depth."""
    if isinstance(section, Component):
        yield section
    if isinstance(section, BaseModel):
        for name in type(section).model_fields:
            yield from components_in(getattr(section, name))
    elif isinstance(section, dict):
        for value in section.values():
            yield from components_in(value)
    elif isinstance(section, list | tuple):
        for value in section:
            yield from components_in(value)


def used_plugins(config: BaseModel) -> dict[str, str]:
    """Return origin, version and hash of each component of a configuration that is not built in.

    >>> from fedprofit.algorithm.fedavg import FedAvg
    >>> used_plugins(FedAvg(steps=1))
    {}
    """
    found: dict[str, str] = {}
    for component in components_in(config):
        kind = type(component)
        if not kind.is_built_in():
            found[f"{kind.family.name} {kind.kind}"] = _origin(kind)
    return found


def _origin(kind: type[Component]) -> str:
    file = _files.get(kind.__module__)
    top = kind.__module__.partition(".")[0]
    distributions = packages_distributions().get(top, [])
    versions = [f"{name} {version(name)}" for name in distributions]
    where = Path(file.path).name if file else (versions[0] if versions else kind.__module__)
    try:
        source = file.source if file else inspect.getsource(sys.modules[kind.__module__])
    except (OSError, TypeError, KeyError):  # defined in an interpreter
        return f"{where}, source unknown"
    return f"{where}, sha256 {hashlib.sha256(source.encode()).hexdigest()[:16]}"


def code_of(kind: type[Component]) -> str:
    """Hash the compiled methods of a component that is not built in.

    It changes when a class is redefined, as in a notebook, where there is no file to hash.
    """
    classes = (one for one in kind.__mro__ if issubclass(one, Component) and not one.is_built_in())
    codes = [value.__code__ for one in classes for value in vars(one).values() if hasattr(value, "__code__")]
    return hashlib.sha256("".join(map(_compiled, codes)).encode()).hexdigest()[:16]


def _compiled(code: CodeType) -> str:
    constants = [_compiled(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts]
    return repr((code.co_code, code.co_names, constants))
