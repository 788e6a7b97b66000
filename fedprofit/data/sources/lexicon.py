"""`lexicon`: tasks from facts in installed Python packages; see `data/lexicon`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fedprofit.config.base import Positive
from fedprofit.data.sources.base import SourceSettings

if TYPE_CHECKING:
    import pyarrow as pa

    from fedprofit.data.tables.reading import Reading


class LexiconSource(SourceSettings, kind="lexicon"):
    """The embedded tasks over facts of installed packages: nothing to download."""

    is_users_own: ClassVar[bool] = False
    comes_with_package: ClassVar[bool] = True

    tasks: tuple[str, ...] = ()
    """Names of the tasks; all if empty."""
    categories: tuple[str, ...] = ()
    """Categories of the tasks; all if empty."""
    instances: Positive = 240
    """Maximum instances per task."""
    verify: bool = True
    """Refuse rows that differ from the published ones, as with other versions of the packages."""

    def files(self) -> Mapping[str, Path]:
        """Return the lexicon's code."""
        code = Path(__file__).parents[1] / "lexicon"
        return {path.name: path for path in sorted(code.glob("*.*")) if path.is_file()}

    def facts(self) -> Mapping[str, str]:
        """Return the versions of the packages with the facts."""
        from fedprofit.data.lexicon.published import PACKAGES
        from fedprofit.data.sources import package_versions

        return package_versions(PACKAGES)

    def read(self, seed: int, reading: "Reading") -> "pa.Table":
        """Make the rows; they do not depend on the seed."""
        from fedprofit.data import lexicon

        return lexicon.read(self.tasks, self.categories, self.instances, self.verify)
