"""A gate rule: the personal prompt for inputs that resemble the client's own train inputs.

    fedprofit run config.yaml --plugin gate.py

    personalization:
      - predictors: [{kind: gate, rule: {kind: nearest, neighbours: 3, quantile: 0.05}}]

An input's feature is its mean token embedding. It is answered personally if its mean cosine to the nearest
own train inputs is at least a threshold: a low quantile of what the train inputs reach among each other, each
left out in turn. The rule sees no targets and no other client's data.
"""

import torch
from torch.nn.functional import normalize

from fedprofit.backbone.forward import Row
from fedprofit.config.base import Fraction, Positive
from fedprofit.predict.rule import GateRule


class Nearest(GateRule, kind="nearest"):
    """Personal for inputs that are near the client's own train inputs, by mean token embedding."""

    neighbours: Positive = 3
    """Own train inputs that an input is compared with."""
    quantile: Fraction = 0.05
    """The share of own train inputs below the threshold."""

    def features(self, width, examples):
        """Return the numbers that a client stores: one embedding per train input."""
        return width * examples

    def build(self, context):
        """Learn each client's threshold from its train inputs; return the function that chooses."""
        own, thresholds = [], []
        for position, client in enumerate(context.clients):
            rows = [Row(position, example) for example in context.examples(client)]
            points = normalize(context.engine.mean_embeddings(rows))
            own.append(points)
            threshold = torch.inf  # with one train input it is unknown how alike they are: never personal
            if len(rows) > 1:
                others = (points @ points.T)[~torch.eye(len(rows), dtype=torch.bool)]
                threshold = float(self.nearness(others.reshape(len(rows), -1)).quantile(self.quantile))
            thresholds.append(threshold)

        def choose(rows):
            points = normalize(context.engine.mean_embeddings(rows))
            near = [
                float(self.nearness(own[row.owner] @ point)) >= thresholds[row.owner] - 1e-6
                for row, point in zip(rows, points, strict=True)
            ]
            return torch.tensor(near, dtype=torch.bool)

        return choose

    def nearness(self, cosines):
        """Return the mean over the nearest neighbours: `[..., own inputs]` to `[...]`."""
        return cosines.topk(min(self.neighbours, cosines.shape[-1])).values.mean(-1)
