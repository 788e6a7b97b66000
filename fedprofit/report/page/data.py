"""The data of the page as JSON-like values. All numbers are computed from the tables."""

import base64
import json
from collections.abc import Iterable
from dataclasses import asdict
from math import isfinite
from typing import Any

import polars as pl

from fedprofit.analyze.facts import PROXIMAL, TUNING_RATE
from fedprofit.analyze.intervals import LEAST_CLIENTS, LEAST_SEEDS
from fedprofit.analyze.tables import Tables
from fedprofit.analyze.tradeoff import KEYS, label
from fedprofit.evaluate.metric import metric_of
from fedprofit.evaluate.results import LOCAL, OTHERS, TASK, UNSEEN
from fedprofit.report.examples import worst_examples
from fedprofit.report.notes import scoring_notes
from fedprofit.report.overview import DIFFERENCES, GridCell, grid_cells, json_value
from fedprofit.report.page.training import budget, rounds, trials
from fedprofit.report.table import Means, format_row_score
from fedprofit.runs.environment import processors

SCORES = ("local", "kept", "global", "unseen", "gain", "forgetting", "skill")
MOST_OTHERS = 200  # maximum train clients, and validation clients, in the partition chart
MOST_BY_TASK = 1_000_000  # maximum rows of scores by task; with more, only one seed is shown
DOWNLOADS = {
    "results.parquet": "every score, by client",
    "settings.parquet": "all hyperparameters, by setting",
    "validation.parquet": "every score, by validation client",
    "rounds.parquet": "federated training, by round",
    "trials.parquet": "every trial, and which were selected",
    "clients.parquet": "train examples of each client, by task",
}
LARGEST_DOWNLOAD = 8_000_000  # maximum bytes of a table that is embedded in the page


def page_data(tables: Tables) -> dict[str, Any]:
    """Return all data of the page."""
    cells = grid_cells(tables)
    environments = _environments(tables)
    return {
        "name": tables.name,
        "kind": "Study" if tables.is_study else "Run",
        "axes": tables.axes,
        "metrics": [
            {"key": one.name, "title": one.named, "short": one.title, "lower": one.lower_is_better}
            for one in map(metric_of, tables.metrics)
        ],
        "places": [_cell_facts(cell) for cell in cells],
        "conditions": [_condition(number, row) for number, cell in enumerate(cells) for row in cell.rows],
        "headlines": [_headline(cell, metric) for cell in cells for metric in tables.metrics],
        "clients": [unit for number, cell in enumerate(cells) for unit in _clients(number, cell)],
        "transfer": _transfer(tables, cells),
        "worst": _worst(tables),
        "rounds": rounds(tables, cells),
        "trials": trials(tables, cells),
        "partition": _partition(tables, cells),
        "budget": budget(tables, cells),
        "claims": _claims(tables),
        "caveats": _caveats(tables),
        "notes": scoring_notes(tables),
        "least": {"seeds": LEAST_SEEDS, "clients": LEAST_CLIENTS},
        "configuration": tables.configuration,
        "environment": json.dumps(environments, indent=2),
        "made": _provenance(tables, environments),
        "downloads": _downloads(tables),
    }


def _cell_facts(cell: GridCell) -> dict[str, Any]:
    return {
        "title": cell.title or "this run",
        "axes": cell.axes,
        "heterogeneity": json_value(cell.heterogeneity),
        "robustness": cell.robustness,
        "clients": cell.clients,
        "seeds": cell.seeds,
    }


def _condition(number: int, row: Means) -> dict[str, Any]:
    shown = {key: row[key] for key in (*KEYS, "front", "knee", "curve")}
    ends = [f"{name}_{end}" for name in (*DIFFERENCES, "worst") for end in ("low", "high")]
    shown |= {"rate": row[TUNING_RATE], "proximal": row[PROXIMAL]}
    shown |= {key: json_value(row[key]) for key in (*SCORES, *ends, "worst")}
    counts = {"clients": row["clients"], "stopped": row["stopped"]}
    return {"place": number, "label": label(row), **shown, **counts}


def _headline(cell: GridCell, metric: str) -> dict[str, Any]:
    """Return a grid cell's summary: scores before tuning, at the compromise, and the best local scores."""
    rows = cell.rows_by(metric)
    sign = metric_of(metric).sign

    def best(condition: str) -> Means | None:
        options = [row for row in rows if row["condition"] == condition and isfinite(row["local"])]
        if condition == "local":  # without interpolations with the common initialization
            options = [row for row in options if row["alpha"] in (None, 1.0)]
        return max(options, key=lambda row: sign * row["local"], default=None)

    federated = [
        row
        for row in rows
        if row["condition"] == "federated" and row["setting"] == "last" and isfinite(row["kept"])
    ]
    selected = {
        "base": next((row for row in rows if row["condition"] == "base"), None),
        "federated": max(federated, key=lambda row: sign * row["kept"], default=None),
        "compromise": next((row for row in rows if row["knee"]), None),
        "most": best("personalized"),
        "alone": best("local"),
    }
    texts = {name: row and _formatted(row, metric) for name, row in selected.items()}
    return {
        "place": cell.title or "this run",
        "metric": metric,
        "scale": metric_of(metric).heading,
        "robustness": cell.robustness,
        **texts,
    }


def _formatted(row: Means, metric: str) -> dict[str, Any]:
    """Return a condition's label and scores as texts, with intervals if known."""
    scores = {key: format_row_score(row, key, metric).partition(" ")[::2] for key in SCORES}
    return {"label": label(row), "scores": scores}


def _clients(number: int, cell: GridCell) -> Iterable[dict[str, Any]]:
    """Yield each client's gain and forgetting at the last step of each setting."""
    tuned = cell.units.filter(pl.col("condition") == "personalized", pl.col("alpha") == 1.0)
    keys = ["algorithm", "setting", "start", "metric"]
    for _, steps in tuned.group_by(keys, maintain_order=True):
        last = steps.filter(pl.col("step") == steps["step"].max())
        yield {
            "place": number,
            **{key: last[key][0] for key in keys},
            "step": last["step"][0],
            "names": [f"{client}, seed {seed}" for client, seed in last.select("client", "seed").rows()],
            "gain": [json_value(value) for value in last["gain"]],
            "forgetting": [json_value(value) for value in last["forgetting"]],
        }


def _transfer(tables: Tables, cells: list[GridCell]) -> list[dict[str, Any]]:
    """Return each client's scores by task before and after tuning: one matrix per setting and seed."""
    if "task" not in tables.results.columns:
        return []
    # A client's own tasks by its own examples, the others by the rows of the shared sets.
    shown = [scope + TASK for scope in (LOCAL, OTHERS, UNSEEN)]
    results = tables.results.filter(pl.col("scope").is_in(shown))
    if len(results) > MOST_BY_TASK:  # the page would take minutes to open
        results = results.filter(pl.col("seed") == pl.col("seed").min())
    matrices = []
    for number, cell in enumerate(cells):
        scores = cell.select(results)
        tuned = scores.filter(pl.col("condition") == "personalized", pl.col("alpha") == 1.0)
        keys = ["algorithm", "setting", "start", "seed", "metric"]
        for (algorithm, setting, start, seed, metric), after in tuned.group_by(keys, maintain_order=True):
            after = after.filter(pl.col("step") == after["step"].max())
            before = scores.filter(
                pl.col("condition") == "federated",
                pl.col("algorithm") == algorithm,
                pl.col("setting") == start,
                pl.col("seed") == seed,
                pl.col("metric") == metric,
            )
            clients, tasks = sorted(set(after["client"])), sorted(set(after["task"]))
            matrices.append(
                {
                    "place": number,
                    **dict(zip(keys, (algorithm, setting, start, seed, metric), strict=True)),
                    "clients": clients,
                    "tasks": tasks,
                    "after": _matrix(after, clients, tasks),
                    "before": _matrix(before, clients, tasks),
                }
            )
    return matrices


def _matrix(rows: pl.DataFrame, clients: list[str], tasks: list[str]) -> list[list[Any]]:
    values = {(client, task): value for client, task, value in rows.select("client", "task", "value").rows()}
    return [[json_value(values.get((client, task))) for task in tasks] for client in clients]


def _partition(tables: Tables, cells: list[GridCell]) -> list[dict[str, Any]]:
    """Return train examples by client and task, for each grid cell and seed."""
    if tables.clients is None:
        return []
    charts = []
    for number, cell in enumerate(cells):
        for (seed,), counted in cell.select(tables.clients).group_by("seed", maintain_order=True):
            rows = counted.join(_sample_clients(counted), on="client", how="semi", maintain_order="left")
            clients = rows.select("client", "group").unique(maintain_order=True).rows()
            tasks = sorted(set(rows["task"]))
            counts = {
                (client, task): n for client, task, n in rows.select("client", "task", "examples").rows()
            }
            charts.append(
                {
                    "place": number,
                    "seed": seed,
                    "clients": [client for client, _ in clients],
                    "groups": [group for _, group in clients],
                    "of": counted["client"].n_unique(),
                    "tasks": tasks,
                    "counts": [[counts.get((client, task), 0) for task in tasks] for client, _ in clients],
                }
            )
    return charts


def _sample_clients(rows: pl.DataFrame) -> pl.DataFrame:
    """Return all test clients, and an evenly spaced sample of each other group."""
    clients = rows.select("client", "group").unique(maintain_order=True)
    number, count = pl.int_range(pl.len()).over("group"), pl.len().over("group")
    stride = (count / MOST_OTHERS).ceil().cast(pl.Int64)
    return clients.filter((pl.col("group") == "test") | (number % stride == 0))


def _worst(tables: Tables) -> list[dict[str, Any]]:
    """Return the worst examples with the answers of all methods."""
    return [
        {"title": one.title, "scale": metric_of(one.metric).title, **asdict(one)}
        for one in worst_examples(tables)
    ]


def _claims(tables: Tables) -> list[dict[str, Any]]:
    """Return the verdicts on the paper's claims; none for a single run."""
    if not tables.is_study:
        return []
    from fedprofit.analyze.claims import SAYS, check_claims

    return [
        {
            "claim": one.claim,
            "metric": metric,
            "says": SAYS[one.claim],
            "verdict": one.verdict,
            "reason": one.reason,
            "corrected": f"corrected p = {one.corrected:.2g}" if one.comparisons else "",
            "comparisons": [str(comparison) for comparison in one.comparisons],
        }
        for metric in tables.metrics
        for one in check_claims(tables.results, tables.axes, metric, tables.validation)
    ]


def _caveats(tables: Tables) -> list[str]:
    """Return what the verdicts do not show; none for a single run."""
    if not tables.is_study:
        return []
    from fedprofit.analyze.claims import caveats

    return caveats(tables)


def _environments(tables: Tables) -> list[dict[str, Any]]:
    """Group runs by versions, machine and model; list their other facts by run."""
    found: dict[str, dict[str, Any]] = {}
    for run, environment in tables.environments.items():
        shared = {
            key: environment[key]
            for key in ("versions", "machine", "model", "computed")
            if key in environment
        }
        others = {key: value for key, value in environment.items() if key not in shared}
        found.setdefault(json.dumps(shared), {**shared, "runs": {}})["runs"][run] = others
    return list(found.values())


def _provenance(tables: Tables, environments: list[dict[str, Any]]) -> dict[str, Any]:
    """Return model, number type, version, number of runs, and the processors of all runs."""
    first: dict[str, Any] = environments[0] if environments else {}
    return {
        "model": tables.model,
        "dtype": str(first.get("model", {}).get("dtype", "")).removeprefix("torch."),
        "version": first.get("versions", {}).get("fedprofit", ""),
        "processors": processors(environments),
        "runs": tables.results["run"].n_unique(),
    }


def _downloads(tables: Tables) -> list[dict[str, str | None]]:
    """Return the tables as data URLs; only the name for tables that are too large to embed."""
    links: list[dict[str, str | None]] = []
    for name, what in DOWNLOADS.items():
        if not (tables.path / name).exists():
            continue
        content, url = (tables.path / name).read_bytes(), None
        if len(content) <= LARGEST_DOWNLOAD:
            url = f"data:application/octet-stream;base64,{base64.b64encode(content).decode()}"
        links.append({"name": name, "what": what, "url": url})
    return links
