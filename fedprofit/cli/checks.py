"""Checks of a configuration before the slow imports."""

from typing import TYPE_CHECKING

from fedprofit.core.processes import arrow_without_pandas

if TYPE_CHECKING:
    from fedprofit.config.run import Config


def check_data(settings: "Config") -> None:
    """Validate a configuration's data before libraries and model are loaded; skip data in the cache."""
    arrow_without_pandas()
    from fedprofit.data.federated import prepare_clients

    prepare_clients(settings.data, settings.seed)
