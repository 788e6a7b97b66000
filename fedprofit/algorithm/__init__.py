"""Federated algorithms, as values built from parts."""

from fedprofit.algorithm.base import Algorithm
from fedprofit.algorithm.fedavg import fedavg
from fedprofit.algorithm.fedsgd import fedsgd
from fedprofit.backbone.engine import Engine
from fedprofit.config import AlgorithmConfig, FedAvgConfig


def build(engine: Engine, settings: AlgorithmConfig) -> Algorithm:
    """Build the algorithm that the settings name."""
    return fedavg(engine, settings) if isinstance(settings, FedAvgConfig) else fedsgd(engine, settings)


__all__ = ["Algorithm", "build", "fedavg", "fedsgd"]
