"""Federated algorithms, as values built from parts."""

from collections.abc import Callable
from typing import Any

from fedprofit.algorithm.base import Algorithm
from fedprofit.algorithm.fedavg import fedavg
from fedprofit.algorithm.fedsgd import fedsgd
from fedprofit.backbone.engine import Engine
from fedprofit.config import AlgorithmConfig, FedAvgConfig, FedSgdConfig

BUILDERS: dict[type, Callable[[Engine, Any], Algorithm]] = {FedAvgConfig: fedavg, FedSgdConfig: fedsgd}


def build(engine: Engine, settings: AlgorithmConfig) -> Algorithm:
    """Build the algorithm that the settings name."""
    return BUILDERS[type(settings)](engine, settings)


__all__ = ["Algorithm", "build", "fedavg", "fedsgd"]
