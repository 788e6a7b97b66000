"""Ditto: each client keeps personal parameters beside the federated ones, with a penalty between the two.

    each client k:  x_k <- local steps from x                                          (sent, as in FedAvg)
                    v_k <- local steps on loss(v) + weight / 2 |v - x|^2, from v_k     (kept)

A client that training has not touched gets its v by the same local steps, from v = x.
"""

from fedprofit.algorithm.base import Algorithm, AlgorithmSettings, Context, WithServer, examples_of, stacked
from fedprofit.config.base import Weight
from fedprofit.data.batching import LocalSteps
from fedprofit.local.objective import Proximal
from fedprofit.local.optimizer import Adam, ClientOptimizerSettings

PAPER = "Li et al. 2021, arXiv 2012.04221"


class Ditto(LocalSteps, WithServer, AlgorithmSettings, kind="ditto", paper=PAPER):
    """FedAvg, and personal parameters of each client that persist over rounds."""

    client: ClientOptimizerSettings = Adam()
    """The optimizer of the local steps, for both kinds of parameters."""
    weight: Weight = 0.1
    """The weight lambda of the L2 penalty between personal and federated parameters."""

    def build(self, context: Context) -> Algorithm:
        """Build Ditto from its parts."""
        server = self.build_server()

        def tune(state, cohort, context):
            personal = context.clients.get("personal", [one.client for one in cohort], state.params)
            terms = [Proximal(self.weight, stacked(state.params, len(cohort)))]
            return context.solver.solve(personal, cohort, self.client, terms)[0]

        def one_round(state, cohort, context):
            tuned = tune(state, cohort, context)
            here = [place for place, count in enumerate(examples_of(cohort, tuned)) if count]
            kept = {key: tensor[here] for key, tensor in tuned.params.items()}
            context.clients.put("personal", [cohort[place].client for place in here], kept)
            start = stacked(state.params, len(cohort))
            result, _ = context.solver.solve(start, cohort, self.client)
            deltas = {key: result.params[key] - start[key] for key in start}
            return server.step(state, cohort, result, deltas, context)

        def personal(state, cohort, context):
            names = [one.client for one in cohort]
            known = context.clients.has("personal", names)
            params = context.clients.get("personal", names, state.params)
            new = [place for place, is_known in enumerate(known) if not is_known]
            tuned = tune(state, [cohort[place] for place in new], context).params if new else {}
            for key, tensor in tuned.items():
                params[key][new] = tensor
            return params

        return Algorithm(self.name, self.plan(), server.init, one_round, personal)
