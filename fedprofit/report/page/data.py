"""What the page shows, as plain values: every number of it comes from the tables."""

import base64
import json
from collections.abc import Iterable
from dataclasses import asdict
from math import isfinite
from typing import Any

import polars as pl

from fedprofit.analyze.facts import PROXIMAL, TUNING_RATE
from fedprofit.analyze.statistics import LEAST_CLIENTS, LEAST_SEEDS
from fedprofit.analyze.tables import Tables
from fedprofit.analyze.tradeoff import KEYS, label
from fedprofit.evaluate.metric import metric_of
from fedprofit.report.examples import worst_of
from fedprofit.report.notes import scoring_notes
from fedprofit.report.overview import DIFFERENCES, Place, places, plain
from fedprofit.report.page.training import budget, rounds, trials
from fedprofit.report.table import Means, ranged
from fedprofit.runs.environment import processors

SCORES = ("local", "global", "unseen", "gain", "forgetting")
MOST_OTHERS = 200  # train clients, and validation clients, that are shown beside the test clients
MOST_BY_TASK = 1_000_000  # rows of scores by task whose matrices are shown for every seed
DOWNLOADS = {
    "results.parquet": "every score, by client",
    "settings.parquet": "all hyperparameters, by setting",
    "validation.parquet": "the same of the validation clients",
    "rounds.parquet": "federated training, round by round",
    "trials.parquet": "every trial, and which were chosen",
    "clients.parquet": "who trains on what",
}
LARGEST_DOWNLOAD = 8_000_000  # bytes of a table that is put into the page


def page_data(tables: Tables) -> dict[str, Any]:
    """Collect everything that the page shows."""
    found = places(tables)
    environments = _environments(tables)
    return {
        "name": tables.name,
        "kind": "Study" if tables.is_study else "Run",
        "axes": tables.axes,
        "metrics": [
            {"key": one.name, "title": one.named, "short": one.title, "lower": one.lower_is_better}
            for one in map(metric_of, tables.metrics)
        ],
        "places": [_place(place) for place in found],
        "conditions": [_condition(number, row) for number, place in enumerate(found) for row in place.rows],
        "headlines": [_headline(place, metric) for place in found for metric in tables.metrics],
        "clients": [unit for number, place in enumerate(found) for unit in _clients(number, place)],
        "transfer": _transfer(tables, found),
        "worst": _worst(tables),
        "rounds": rounds(tables, found),
        "trials": trials(tables, found),
        "partition": _partition(tables, found),
        "budget": budget(tables, found),
        "claims": _claims(tables),
        "caveats": _caveats(tables),
        "notes": scoring_notes(tables),
        "least": {"seeds": LEAST_SEEDS, "clients": LEAST_CLIENTS},
        "configuration": tables.configuration,
        "environment": json.dumps(environments, indent=2),
        "made": _made(tables, environments),
        "downloads": _downloads(tables),
    }


def _place(place: Place) -> dict[str, Any]:
    return {
        "title": place.title or "this run",
        "axes": place.axes,
        "heterogeneity": plain(place.heterogeneity),
        "clients": place.clients,
        "seeds": place.seeds,
    }


def _condition(number: int, row: Means) -> dict[str, Any]:
    shown = {key: row[key] for key in (*KEYS, "front", "knee", "curve")}
    ends = [f"{name}_{end}" for name in (*DIFFERENCES, "worst") for end in ("low", "high")]
    shown |= {"rate": row[TUNING_RATE], "proximal": row[PROXIMAL]}
    shown |= {key: plain(row[key]) for key in (*SCORES, *ends, "worst")}
    counts = {"clients": row["clients"], "stopped": row["stopped"]}
    return {"place": number, "label": label(row), **shown, **counts}


def _headline(place: Place, metric: str) -> dict[str, Any]:
    """What a reader in a hurry wants: before, the compromise, and the most that can be gained."""
    rows = place.of(metric)
    sign = metric_of(metric).sign

    def best(condition: str) -> Means | None:
        own = [row for row in rows if row["condition"] == condition and isfinite(row["local"])]
        if condition == "local":  # its own prompt, and none between it and the common start
            own = [row for row in own if row["alpha"] in (None, 1.0)]
        return max(own, key=lambda row: sign * row["local"], default=None)

    federated = [
        row
        for row in rows
        if row["condition"] == "federated" and row["setting"] == "last" and isfinite(row["global"])
    ]
    chosen = {
        "base": next((row for row in rows if row["condition"] == "base"), None),
        "federated": max(federated, key=lambda row: sign * row["global"], default=None),
        "compromise": next((row for row in rows if row["knee"]), None),
        "most": best("personalized"),
        "alone": best("local"),
    }
    shown = {name: row and _in_words(row, metric) for name, row in chosen.items()}
    return {"place": place.title or "this run", "metric": metric, "scale": metric_of(metric).heading, **shown}


def _in_words(row: Means, metric: str) -> dict[str, Any]:
    """A condition and its scores as texts, each with its interval, if it has one."""
    scores = {key: ranged(row, key, metric).partition(" ")[::2] for key in SCORES}
    return {"label": label(row), "scores": scores}


def _clients(number: int, place: Place) -> Iterable[dict[str, Any]]:
    """Each client's gain and forgetting at the last step of each setting."""
    tuned = place.units.filter(pl.col("condition") == "personalized", pl.col("alpha") == 1.0)
    keys = ["algorithm", "setting", "start", "metric"]
    for _, own in tuned.group_by(keys, maintain_order=True):
        last = own.filter(pl.col("step") == own["step"].max())
        yield {
            "place": number,
            **{key: last[key][0] for key in keys},
            "step": last["step"][0],
            "names": [f"{client}, seed {seed}" for client, seed in last.select("client", "seed").rows()],
            "gain": [plain(value) for value in last["gain"]],
            "forgetting": [plain(value) for value in last["forgetting"]],
        }


def _transfer(tables: Tables, found: list[Place]) -> list[dict[str, Any]]:
    """Each client's scores by task, before and after personalization: one matrix a setting and seed."""
    if "task" not in tables.results.columns:
        return []
    results = tables.results.filter(pl.col("scope") == "task")
    if len(results) > MOST_BY_TASK:  # the page would take minutes to open: one seed shows it too
        results = results.filter(pl.col("seed") == pl.col("seed").min())
    matrices = []
    for number, place in enumerate(found):
        own = place.within(results)
        tuned = own.filter(pl.col("condition") == "personalized", pl.col("alpha") == 1.0)
        keys = ["algorithm", "setting", "start", "seed", "metric"]
        for (algorithm, setting, start, seed, metric), after in tuned.group_by(keys, maintain_order=True):
            after = after.filter(pl.col("step") == after["step"].max())
            before = own.filter(
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
                    # One prompt for all clients: a row says it all.
                    "before": _matrix(before, clients[:1], tasks)[0],
                }
            )
    return matrices


def _matrix(rows: pl.DataFrame, clients: list[str], tasks: list[str]) -> list[list[Any]]:
    values = {(client, task): value for client, task, value in rows.select("client", "task", "value").rows()}
    return [[plain(values.get((client, task))) for task in tasks] for client in clients]


def _partition(tables: Tables, found: list[Place]) -> list[dict[str, Any]]:
    """Who trains on what, one picture a place and seed."""
    if tables.clients is None:
        return []
    pictures = []
    for number, place in enumerate(found):
        own = place.within(tables.clients)
        for (seed,), every in own.group_by("seed", maintain_order=True):
            rows = every.join(_shown(every), on="client", how="semi", maintain_order="left")
            clients = rows.select("client", "group").unique(maintain_order=True).rows()
            tasks = sorted(set(rows["task"]))
            counts = {
                (client, task): n for client, task, n in rows.select("client", "task", "examples").rows()
            }
            pictures.append(
                {
                    "place": number,
                    "seed": seed,
                    "clients": [client for client, _ in clients],
                    "groups": [group for _, group in clients],
                    "of": every["client"].n_unique(),
                    "tasks": tasks,
                    "counts": [[counts.get((client, task), 0) for task in tasks] for client, _ in clients],
                }
            )
    return pictures


def _shown(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the clients to show: all test clients, and of the other groups some, evenly spaced."""
    clients = rows.select("client", "group").unique(maintain_order=True)
    number, count = pl.int_range(pl.len()).over("group"), pl.len().over("group")
    stride = (count / MOST_OTHERS).ceil().cast(pl.Int64)
    return clients.filter((pl.col("group") == "test") | (number % stride == 0))


def _worst(tables: Tables) -> list[dict[str, Any]]:
    """The worst examples, with every method's answer."""
    return [
        {"title": one.title, "scale": metric_of(one.metric).title, **asdict(one)} for one in worst_of(tables)
    ]


def _claims(tables: Tables) -> list[dict[str, Any]]:
    """What the study's results say of the paper's claims; a run alone says nothing."""
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
            "comparisons": [str(comparison) for comparison in one.comparisons],
        }
        for metric in tables.metrics
        for one in check_claims(tables.results, tables.axes, metric)
    ]


def _caveats(tables: Tables) -> list[str]:
    """What the verdicts do not show."""
    if not tables.is_study:
        return []
    from fedprofit.analyze.claims import caveats

    return caveats(tables)


def _environments(tables: Tables) -> list[dict[str, Any]]:
    """Each set of versions, machine and model once, with what else is known of the runs that had it."""
    found: dict[str, dict[str, Any]] = {}
    for run, environment in tables.environments.items():
        shared = {
            key: environment[key]
            for key in ("versions", "machine", "model", "computed")
            if key in environment
        }
        own = {key: value for key, value in environment.items() if key not in shared}
        found.setdefault(json.dumps(shared), {**shared, "runs": {}})["runs"][run] = own
    return list(found.values())


def _made(tables: Tables, environments: list[dict[str, Any]]) -> dict[str, Any]:
    """What it was made with, in a line; the processors are all that computed some run."""
    first: dict[str, Any] = environments[0] if environments else {}
    return {
        "model": tables.model,
        "dtype": str(first.get("model", {}).get("dtype", "")).removeprefix("torch."),
        "version": first.get("versions", {}).get("fedprofit", ""),
        "processors": processors(environments),
        "runs": tables.results["run"].n_unique(),
    }


def _downloads(tables: Tables) -> list[dict[str, str | None]]:
    """The tables themselves, inside the page; of those that are too large for it, the names alone."""
    links: list[dict[str, str | None]] = []
    for name, what in DOWNLOADS.items():
        if not (tables.path / name).exists():
            continue
        content, url = (tables.path / name).read_bytes(), None
        if len(content) <= LARGEST_DOWNLOAD:
            url = f"data:application/octet-stream;base64,{base64.b64encode(content).decode()}"
        links.append({"name": name, "what": what, "url": url})
    return links
