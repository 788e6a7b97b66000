"""`sni`: Super-NaturalInstructions, read by `data/tables/sni.py`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fedprofit.config.base import Positive
from fedprofit.core.files import expanded
from fedprofit.data.sources.base import FilePath, SourceSettings

if TYPE_CHECKING:
    import pyarrow as pa

    from fedprofit.data.tables.reading import Reading


class SniSource(SourceSettings, kind="sni", paper="Wang et al. 2022, arXiv 2204.07705"):
    """Super-NaturalInstructions: a folder of task JSON files, or a Parquet table."""

    is_users_own: ClassVar[bool] = False
    unread_share: ClassVar[float] = 0.5  # the benchmark's own evaluation uses that tokenizer

    path: FilePath
    """The folder `tasks` of the official repository, or a Parquet file."""
    tasks: tuple[str, ...] = ()
    """Names such as task073_commonsenseqa_answer_generation, or numbers such as "73"; all if empty."""
    categories: tuple[str, ...] = ()
    """Categories of the tasks; all if empty."""
    instances: Positive | None = None
    """Maximum instances per task, drawn by seed."""
    max_tasks: Positive | None = None
    """Maximum number of tasks, drawn by seed from those that pass the other limits."""
    min_instances: Positive = 1
    """Tasks with fewer instances are excluded."""
    max_words: Positive | None = None
    """Instances with a longer definition, input or target, in words, are excluded."""

    @property
    def place(self) -> str:
        """The path."""
        return str(expanded(self.path))

    def files(self) -> Mapping[str, Path]:
        """Return the Parquet file, or the task files of the folder."""
        path = expanded(self.path)
        if not path.is_dir():
            return {path.name: path} if path.is_file() else {}
        return {file.name: file for file in sorted(path.glob("task*.json")) if file.is_file()}

    def read(self, seed: int, reading: "Reading") -> "pa.Table":
        """Read the instances that pass the limits."""
        from fedprofit.data.tables import sni

        return sni.read(self, seed, reading)
