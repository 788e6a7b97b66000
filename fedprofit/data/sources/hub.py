"""`hub`: a data set of the Hugging Face hub, or a local folder in one of its formats (extra `hub`)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedprofit.core.errors import UserError, first_line, nearest
from fedprofit.core.files import expanded
from fedprofit.data.sources.base import Columns, TabularSource

if TYPE_CHECKING:
    import pyarrow as pa

    from fedprofit.data.tables.reading import Reading

SPLIT_COLUMN = "fedprofit_split"  # added: the data set's own split names


class HubSource(TabularSource, kind="hub"):
    """A data set of the Hugging Face hub, or a local folder in its format."""

    name: str
    """The data set's name on the hub, or a folder of data files or of `save_to_disk`."""
    subset: str | None = None
    """The configuration, for data sets with several."""
    revision: str | None = None
    """The revision on the hub; name one to pin the rows."""

    @property
    def place(self) -> str:
        """The data set's name."""
        return self.name

    def files(self) -> Mapping[str, Path]:
        """Return the files of a local folder."""
        from fedprofit.data.sources import files_below

        return files_below(expanded(self.name))

    def read(self, seed: int, reading: "Reading") -> "pa.Table":
        """Load the data set with the `datasets` library.

        The splits of the data set are kept, unless a split column is named. Class labels become their names.

        Raises:
            UserError: the extra is not installed, the data set cannot be loaded, or a split has an unknown
                name. Errors in its rows go into `reading`, see `columns.to_pool`.
        """
        try:
            import datasets
        except ImportError:
            raise UserError(
                "data.source.kind: hub needs the datasets package. Install it: pip install 'fedprofit[hub]'"
            ) from None
        import pyarrow as pa

        from fedprofit.data.tables.columns import to_pool

        loaded = _load(datasets, self)
        parts = list(tables_of(loaded, self.columns, self.name))
        if not parts:
            raise UserError(f"{self.name}: the data set holds no rows (data.source.name).")
        # Each split is checked separately: row numbers in messages are relative to the split.
        return pa.concat_tables([to_pool(table, columns, place, reading) for table, columns, place in parts])


def tables_of(loaded: Any, columns: Columns, name: str) -> "Iterator[tuple[pa.Table, Columns, str]]":
    """Yield each split of a `datasets` object that has rows: its table, its columns, its name in messages."""
    import datasets
    import pyarrow as pa

    from fedprofit.data.tables.columns import wanted

    parts = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {None: loaded}
    if columns.split is None and None not in parts:
        columns = columns.model_copy(update={"split": SPLIT_COLUMN})
        _check_splits([str(split) for split in parts], name)
    for split, part in parts.items():
        place = f"{name}, split {split}" if split else name
        used = columns.model_copy(update={"split": None}) if columns.split == SPLIT_COLUMN else columns
        table = _with_label_names(part.select_columns(wanted(used, part.column_names, place)), datasets)
        if columns.split == SPLIT_COLUMN:
            table = table.append_column(SPLIT_COLUMN, pa.repeat(pa.scalar(split), table.num_rows))
        if table.num_rows:
            yield table, columns, place


def _load(datasets: Any, settings: HubSource) -> Any:
    import pyarrow as pa

    folder = expanded(settings.name)
    if settings.name.startswith((".", "/", "~")) and not folder.exists():
        raise UserError(f"{settings.name}: there is no such folder (data.source.name). Check the path.")
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            return datasets.load_from_disk(str(folder))
        name = str(folder) if folder.exists() else settings.name
        return datasets.load_dataset(name, settings.subset, revision=settings.revision)
    except (ValueError, RuntimeError, OSError, pa.ArrowException, datasets.exceptions.DatasetsError) as error:
        reason = first_line(error).rstrip(".")
        raise UserError(
            f"{settings.name}: the data set cannot be loaded: {reason}. Check data.source.name, subset and "
            "revision, and the connection; a local folder of data files can be named instead."
        ) from error


def _check_splits(names: list[str], place: str) -> None:
    from fedprofit.data.tables.columns import SPLIT_NAMES

    for name in names:
        if name not in SPLIT_NAMES:
            raise UserError(
                f"{place}: the data set has a split {name!r}; {nearest(name, SPLIT_NAMES)} Save a copy with "
                "its splits renamed (DatasetDict.save_to_disk) and name that folder in data.source.name."
            )


def _with_label_names(part: Any, datasets: Any) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.compute as pc

    table: pa.Table = part.with_format("arrow")[:]
    for position, (name, feature) in enumerate(part.features.items()):
        if isinstance(feature, datasets.ClassLabel):
            # An unlabelled row is -1 in `datasets`, null here.
            codes = pc.if_else(pc.less(table[name], 0), None, table[name])
            table = table.set_column(position, name, pc.take(pa.array(feature.names), codes))
    return table
