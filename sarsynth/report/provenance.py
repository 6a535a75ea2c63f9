"""Sections on how the rows came about: prototypes, learning curves, settings that differ, cost, commands."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from sarsynth.diffusion.prototypes import Partition, prototype_weights
from sarsynth.program import command
from sarsynth.report import plots
from sarsynth.report.jobs import Job, read_curves
from sarsynth.report.pieces import COUNT, Cell, Command, Note, Piece, Table, duration
from sarsynth.report.plots import Plot
from sarsynth.report.sweep import Sweep

STORE = Path("logs/store")  # where the store lies unless somebody says otherwise: conf/paths/default.yaml
KINDS = {"images": {"synthetic"}, "classifiers": {"evaluation", "classifier"}}  # of artifacts; all others: training


def prototypes(sweep: Sweep) -> list[Piece]:
    """K-means on features of the SAR training images (prototypes.features).

    When a class is made, the adapters of the clusters are mixed by its bias scores: its share of each cluster,
    normalised. With a mutual information of 1 the clusters are the classes, and nothing is shared.
    """
    clusters: dict[str, Plot] = {}
    for name, result in zip(sweep.names, sweep.results, strict=True):
        for fingerprint, card in sweep.lineage(result["inputs"].values()).items():
            if card["kind"] == "partition" and fingerprint not in clusters:
                folder = sweep.artifact(fingerprint)
                assert folder is not None  # it has a card
                clusters[fingerprint] = _clusters(name, fingerprint, Partition.load(folder / "partition.json"))
    return [*clusters.values()] or [Note("No row here divides its images by prototypes.")]


def _clusters(name: str, fingerprint: str, partition: Partition) -> Plot:
    counts = np.asarray(partition.counts)
    columns = [f"cluster {index}" for index in range(partition.k)]
    figure = plots.clusters(counts, prototype_weights(counts), partition.classes, columns)
    caption = f"{name}: normalised mutual information of clusters and classes {partition.nmi:.2f}"
    alt = f"Images of each class in each of {partition.k} clusters, and weights"
    return Plot(f"clusters_{fingerprint}", figure, alt, caption)


def learning(sweep: Sweep) -> list[Piece]:
    """Faint: as logged; strong: averaged over a tenth of a run. What a row found in the store it has no curve of."""
    panels: dict[str, dict[str, list[np.ndarray]]] = {}
    for name, job in zip(sweep.names, sweep.jobs, strict=True):
        for file in sorted(job.folder.glob("lightning_logs/*/metrics.csv")):
            for column, curve in read_curves(file).items():
                stage, _, metric = column.partition("/")
                if metric and not metric.startswith("lr"):
                    title = f"{'classifiers' if re.fullmatch(r'seed_.*', stage) else stage}: {metric.replace('_', ' ')}"
                    panels.setdefault(title, {}).setdefault(name, []).append(curve)
    if not panels:
        return [Note("Nothing logged here: curves need logger=csv.")]
    figures = plots.both(plots.curves, panels, sweep.names)
    return [Plot("learning", alt="Losses over training steps, by stage and method", **figures)]


def settings(sweep: Sweep) -> list[Piece]:
    """Every setting that is not the same in all rows, whatever it follows from."""
    flat = [_flat(job.folder / ".hydra/config.yaml") for job in sweep.jobs]
    known = dict.fromkeys(key for job in flat for key in job if key != "method.name")  # the rows have that name
    keys = [key for key in known if len({str(job.get(key)) for job in flat}) > 1]
    if not keys:
        return [Note("All rows have the same settings.")]
    lines = [
        [name, *("" if job.get(key) is None else str(job[key]) for key in keys)]
        for name, job in zip(sweep.names, flat, strict=True)
    ]
    return [Table(f"{len(keys)} of {len(flat[0])} settings differ", ["method", *keys], lines, numeric=False)]


def _flat(file: Path) -> dict[str, Any]:
    """The settings of a job by dotted key; none if it left no record."""
    if not file.is_file():
        return {}

    def walk(section: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
        for key, value in section.items():
            if isinstance(value, Mapping) and value:
                yield from walk(value, f"{above}{key}.")
            else:
                yield f"{above}{key}", value

    return dict(walk(OmegaConf.to_container(OmegaConf.load(file), resolve=True), ""))  # type: ignore[arg-type]


def costs(sweep: Sweep) -> list[Piece]:
    """Time of everything that a row rests on, by the cards of the store, as if it had been made for this row alone.

    Rows share parts, so the last line is less than their sum. Peak memory is that of the accelerator where one was
    used, else of the process.
    """
    lines: list[list[Cell | str]] = []
    everything: dict[str, dict[str, Any]] = {}
    for name, result in zip(sweep.names, sweep.results, strict=True):
        cards = sweep.lineage(result["inputs"].values())
        everything |= cards
        training = result.get("training") or {}
        counts = [training.get("trainable_parameters"), training.get("samples_seen")]
        lines.append([name, *_cost(cards), *(Cell(count or None, COUNT) for count in counts)])
    if not everything:
        return [sweep.absent]
    if len(lines) > 1:
        lines.append(["all rows, shared parts once", *_cost(everything), "", ""])
    columns = ["in all", "training", *KINDS, "peak memory", "device", "trained parameters", "training samples"]
    return [Table("Cost of each row", ["method", *columns], lines)]


def _cost(cards: Mapping[str, Mapping[str, Any]]) -> list[Cell]:
    seconds = {
        kind: sum(card["seconds"] for card in cards.values() if card["kind"] in kinds) for kind, kinds in KINDS.items()
    }
    elsewhere = set().union(*KINDS.values())
    training = sum(card["seconds"] for card in cards.values() if card["kind"] not in elsewhere)
    total = sum(card["seconds"] for card in cards.values())
    peak = max((card["peak_memory_bytes"] for card in cards.values()), default=0)
    devices = sorted({card["device"] for card in cards.values()})
    times = [Cell(part, duration) for part in (total, training, *seconds.values())]
    return [*times, Cell(peak, lambda size: f"{size / 2**30:.2f} GiB"), Cell(", ".join(devices))]


def commands(sweep: Sweep) -> list[Piece]:
    """Each line makes one row; what the store holds already is not made again."""
    lines = [Command(name, remake(job)) for name, job in zip(sweep.names, sweep.jobs, strict=True)]
    of = ",".join(map(str, sweep.sources))
    keys = [
        f"report=[{of}]" if of else f"report={sweep.folder}",
        *([] if sweep.store == STORE else [f"paths.store={sweep.store}"]),
    ]
    return [*lines, Command("this report", command("evaluate", *keys))]


def remake(job: Job) -> str:
    """The command line of one job on its own; an experiment or sweep would else ask for all of theirs."""
    overrides = [f"{key}={value}" for key, value in job.arguments.items()]
    for_several = [key for key in job.arguments if key in ("experiment", "sweep")]
    return command("evaluate", *overrides, *(["hydra.mode=RUN"] if for_several else []))
