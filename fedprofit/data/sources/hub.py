"""A data set of the Hugging Face hub, or a local folder in one of its formats (extra `hub`)."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fedprofit.core.errors import UserError, first_line, nearest
from fedprofit.core.files import expanded
from fedprofit.data.settings import HubSource
from fedprofit.data.sources.columns import SPLIT_NAMES, to_pool, wanted
from fedprofit.data.sources.reading import Reading

SPLIT_COLUMN = "fedprofit_split"  # added by `read`: the data set's own split names


def read(settings: HubSource, reading: Reading) -> pa.Table:
    """Load `settings.name` with the `datasets` library and turn it into POOL_SCHEMA.

    A folder may hold data files (`load_dataset`) or what `save_to_disk` wrote. The splits of the data
    set are the pool's, unless a split column is named. Class labels become their names.

    Raises UserError: the extra is not installed, the data set cannot be loaded, a split has a name
    of its own. What is wrong with its rows goes into `reading`, see `columns.to_pool`.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(
            "data.source.kind: hub needs the datasets package. Install it: pip install 'fedprofit[hub]'"
        ) from None
    loaded = _load(datasets, settings)
    parts = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {None: loaded}
    columns = settings.columns
    if columns.split is None and None not in parts:
        columns = columns.model_copy(update={"split": SPLIT_COLUMN})
        _check_splits(list(loaded), settings.name)
    tables = []
    for split, part in parts.items():
        place = f"{settings.name}, split {split}" if split else settings.name
        names = wanted(settings.columns, part.column_names, place)
        table = _with_label_names(part.select_columns(names), datasets)
        if columns.split == SPLIT_COLUMN:
            table = table.append_column(SPLIT_COLUMN, pa.repeat(pa.scalar(split), table.num_rows))
        # Each split is checked for itself: row numbers in messages are those of the split.
        if table.num_rows:
            tables.append(to_pool(table, columns, place, reading))
    if not tables:
        raise UserError(f"{settings.name}: the data set holds no rows (data.source.name).")
    return pa.concat_tables(tables)


def _load(datasets: Any, settings: HubSource) -> Any:
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
    for name in names:
        if name not in SPLIT_NAMES:
            raise UserError(
                f"{place}: the data set has a split {name!r}; {nearest(name, SPLIT_NAMES)} Save a copy with "
                "its splits renamed (DatasetDict.save_to_disk) and name that folder in data.source.name."
            )


def _with_label_names(part: Any, datasets: Any) -> pa.Table:
    table: pa.Table = part.with_format("arrow")[:]
    for position, (name, feature) in enumerate(part.features.items()):
        if isinstance(feature, datasets.ClassLabel):
            # An unlabelled row is -1 there, and null here.
            codes = pc.if_else(pc.less(table[name], 0), None, table[name])
            table = table.set_column(position, name, pc.take(pa.array(feature.names), codes))
    return table
