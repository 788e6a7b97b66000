"""Interpolation of parameters: alpha x personal + (1 - alpha) x federated. No further training."""

from fedprofit.config.base import Fraction
from fedprofit.predict.base import Predictor, PredictorContext, PredictorSettings, Prompted


class Interpolated(PredictorSettings, kind="interpolated", paper="Collins et al. 2023, arXiv 2310.04627"):
    """Interpolated personal and federated parameters."""

    alpha: Fraction = 0.5
    """The weight of the personal parameters; that of the federated ones is 1 - alpha."""

    def build(self, context: PredictorContext) -> Predictor:
        """Make the predictor of all clients."""
        mixed = context.tuner.mix(context.personal, context.federated, self.alpha)
        return Prompted(context.engine, context.tuner.apply(mixed))
