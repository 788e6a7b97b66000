"""The levels of heterogeneity, from one task a client to IID."""

from typing import TYPE_CHECKING, Literal

from fedprofit.config.base import Positive, Rate
from fedprofit.data.partitions.base import LevelSettings

if TYPE_CHECKING:
    import numpy as np

    from fedprofit.data.deal import Stock
    from fedprofit.data.splits import Ints


class Task(LevelSettings, kind="task"):
    """One task a client."""

    def assign(self, stock: "Stock", generator: "np.random.Generator") -> "Ints":
        """Give each client rows of its task."""
        return stock.by_choice(stock.given[:, None], generator)


class Tasks(LevelSettings, kind="tasks"):
    """Several tasks a client."""

    tasks_per_client: Positive = 2
    """Tasks per client."""

    @property
    def tasks_each(self) -> int:
        """The minimum number of tasks of a client."""
        return self.tasks_per_client

    def assign(self, stock: "Stock", generator: "np.random.Generator") -> "Ints":
        """Let client i share the tasks of clients i, i + 1, ...: every row of a task is assigned."""
        import numpy as np

        clients = len(stock.given)
        ring = (np.arange(clients)[:, None] + np.arange(self.tasks_per_client)) % clients
        return stock.by_choice(stock.given[ring], generator)


class Category(LevelSettings, kind="category"):
    """One category of tasks a client."""

    @property
    def label(self) -> Literal["task", "category"]:
        """The column by which rows are dealt."""
        return "category"

    def assign(self, stock: "Stock", generator: "np.random.Generator") -> "Ints":
        """Give each client rows of one category, in proportion to the categories' rows."""
        import numpy as np

        from fedprofit.data.deal import apportion

        counts = apportion(stock.prior.astype(np.float64), len(stock.sizes))
        choices = generator.permutation(np.repeat(np.arange(len(counts)), counts))
        return stock.by_choice(choices[:, None], generator)


class Dirichlet(LevelSettings, kind="dirichlet", paper="Hsu, Qi and Brown 2019, arXiv 1909.06335"):
    """Each client's mix of tasks is drawn from a Dirichlet distribution."""

    alpha: Rate = 0.5
    """The concentration: small values give each client few tasks, large values the pool's mix."""
    over: Literal["task", "category"] = "task"
    """Labels that are mixed: tasks or categories."""

    @property
    def label(self) -> Literal["task", "category"]:
        """The column by which rows are dealt."""
        return self.over

    def assign(self, stock: "Stock", generator: "np.random.Generator") -> "Ints":
        """Deal by mixes from Dirichlet(alpha x prior), the prior summing to one (section 3 of the paper)."""
        from fedprofit.data.deal import dirichlet

        mixes = dirichlet(self.alpha, stock.prior, len(stock.sizes), generator)
        return stock.by_mix(mixes, generator)


class Iid(LevelSettings, kind="iid"):
    """All clients have the pool's mix of tasks."""

    def assign(self, stock: "Stock", generator: "np.random.Generator") -> "Ints":
        """Deal by the mix of all rows."""
        import numpy as np

        mixes = np.broadcast_to(stock.prior, (len(stock.sizes), len(stock.prior)))
        return stock.by_mix(mixes, generator)
