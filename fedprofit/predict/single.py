"""One set of parameters: the client's own."""

from fedprofit.predict.base import Predictor, PredictorContext, PredictorSettings, Prompted


class Single(PredictorSettings, kind="single"):
    """The personal parameters for every input."""

    def build(self, context: PredictorContext) -> Predictor:
        """Make the predictor of all clients."""
        return Prompted(context.engine, context.personal_prompts)
