"""SCAFFOLD, option II: control variates correct the drift of local SGD.

each client k, K steps:  y <- y - rate (g_k(y) - c_k + c);  c_k+ = c_k - c + (x - y) / (K rate)
server, N clients:       x <- server(x, mean(y - x));       c <- c + |S| / N mean(c_k+ - c_k)
"""

from dataclasses import replace

import torch

from fedprofit.algorithm import base
from fedprofit.config.base import Rate
from fedprofit.data.batching import LocalSteps
from fedprofit.local.objective import Correction
from fedprofit.local.optimizer import Sgd
from fedprofit.server.aggregate import weighted_mean
from fedprofit.server.steps.mean import Mean
from fedprofit.server.update import Steps

PAPER = "Karimireddy et al. 2020, arXiv 1910.06378"


class Scaffold(LocalSteps, base.WithServer, base.AlgorithmSettings, kind="scaffold", paper=PAPER):
    """Stochastic controlled averaging: local SGD with control variates of server and clients."""

    rate: Rate = 0.1
    """The learning rate of the local steps."""
    aggregate: Steps = (Mean(weights="uniform"),)
    """The steps from the clients' updates to the server's, in order."""

    def build(self, context: base.Context) -> base.Algorithm:
        """Build SCAFFOLD from its parts."""
        server = self.build_server()

        def init(params):
            return server.init(params, control=base.zeros_like(params))

        def one_round(state, cohort, context):
            names, control = [one.client for one in cohort], state.extra["control"]
            own = context.clients.get("control", names, base.zeros_like(control))
            gap = {k: control[k] - own[k] for k in own}
            start = base.stacked(state.params, len(cohort))
            result, _ = context.solver.solve(start, cohort, Sgd(rate=self.rate), [Correction(gap)])
            deltas = {k: result.params[k] - start[k] for k in start}
            after, report = server.step(state, cohort, result, deltas, context, beside=control)
            length = self.rate * torch.tensor([max(1, steps) for steps in result.steps])
            drift = {k: (d.movedim(0, -1) / length.to(d)).movedim(-1, 0) for k, d in deltas.items()}
            change = {k: -control[k] - drift[k] for k in own}
            counts = [float(examples > 0) for examples in base.examples_of(cohort, result)]
            here = [place for place, count in enumerate(counts) if count]
            moved = {k: (own[k] + change[k])[here] for k in own}
            context.clients.put("control", [names[place] for place in here], moved)
            share = sum(counts) / max(context.population, len(cohort))
            mean = weighted_mean(change, counts)
            control = {k: control[k] + share * mean[k] for k in control}
            return replace(after, extra={**after.extra, "control": control}), report

        return base.Algorithm(self.name, self.plan(), init, one_round)
