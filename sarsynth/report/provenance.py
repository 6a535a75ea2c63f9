"""How the rows came about: prototypes, learning curves, settings that differ, cost, commands."""

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from sarsynth.diffusion.prototypes import Partition, prototype_weights
from sarsynth.report import jobs, plots
from sarsynth.report.jobs import Cell as Job
from sarsynth.report.pages import Cell, Command, Note, Piece, Plot, Section, Table
from sarsynth.report.sweep import STORE, Sweep
from sarsynth.report.tables import duration

KINDS = {"images": {"synthetic"}, "classifiers": {"evaluation", "classifier"}}


def prototypes(sweep: Sweep) -> Section:
    """Class x cluster counts and the weights that follow."""
    about = (
        "K-means on features of the SAR training images (prototypes.features). When a class is made, the adapters of "
        "the clusters are mixed by its bias scores: its share of each cluster, normalised. With a mutual information "
        "of 1 the clusters are the classes, and nothing is shared."
    )
    pieces: list[Piece] = []
    seen: set[str] = set()
    for name, result in zip(sweep.rows, sweep.results, strict=True):
        cards = sweep.lineage(result["inputs"].values())
        for fingerprint in [one for one, card in cards.items() if card["kind"] == "partition" and one not in seen]:
            seen.add(fingerprint)
            folder = sweep.artifact(fingerprint)
            assert folder is not None  # it has a card
            partition = Partition.load(folder / "partition.json")
            counts = np.asarray(partition.counts)
            short = [f"cluster {index}" for index in range(partition.k)]
            figure = plots.clusters(counts, prototype_weights(counts), partition.classes, short)
            caption = f"{name}: normalised mutual information of clusters and classes {partition.nmi:.2f}"
            alt = f"Images of each class in each of {partition.k} clusters, and weights"
            pieces.append(Plot(f"clusters_{fingerprint}", figure, alt, caption))
    return Section("prototypes", "Prototypes", about, pieces or [Note("No row here divides its images by prototypes.")])


def learning(sweep: Sweep) -> Section:
    """Learning curves of what these jobs trained themselves."""
    about = (
        "Faint: as logged; strong: averaged over a tenth of a run. What a row found in the store it has no curve of."
    )
    panels: dict[str, dict[str, list[np.ndarray]]] = {}
    for name, job in zip(sweep.rows, sweep.jobs, strict=True):
        for file in sorted(job.folder.glob("lightning_logs/*/metrics.csv")):
            for column, curve in jobs.curves(file).items():
                stage, _, metric = column.partition("/")
                if metric and not metric.startswith("lr"):
                    title = f"{'classifiers' if re.fullmatch(r'seed_.*', stage) else stage}: {metric.replace('_', ' ')}"
                    panels.setdefault(title, {}).setdefault(name, []).append(curve)
    if not panels:
        return Section("learning", "Learning curves", about, [Note("Nothing logged here: curves need logger=csv.")])
    return Section(
        "learning",
        "Learning curves",
        about,
        [Plot("learning", plots.curves(panels, sweep.rows), "Losses over training steps, by stage and method")],
    )


def settings(sweep: Sweep) -> Section:
    """Settings that are not the same in every row."""
    flat = [_flat(job.folder / ".hydra/config.yaml") for job in sweep.jobs]
    known = dict.fromkeys(key for one in flat for key in one if key != "method.name")  # the rows have that name
    keys = [key for key in known if len({str(one.get(key)) for one in flat}) > 1]
    about = "Every setting that is not the same in all rows, whatever it follows from."
    if not keys:
        return Section("settings", "Settings that differ", about, [Note("All rows have the same settings.")])
    table = [
        [name, *("" if one.get(key) is None else str(one[key]) for key in keys)]
        for name, one in zip(sweep.rows, flat, strict=True)
    ]
    caption = f"{len(keys)} of {len(flat[0])} settings differ"
    return Section("settings", "Settings that differ", about, [Table(caption, ["method", *keys], table, numeric=False)])


def _flat(file: Path) -> dict[str, Any]:
    """The settings of a job by dotted key; none if it left no record."""
    if not file.is_file():
        return {}

    def walk(section: Mapping[str, Any], above: str) -> Iterable[tuple[str, Any]]:
        for key, value in section.items():
            if isinstance(value, Mapping) and value:
                yield from walk(value, f"{above}{key}.")
            else:
                yield f"{above}{key}", value

    return dict(walk(OmegaConf.to_container(OmegaConf.load(file), resolve=True), ""))  # type: ignore[arg-type]


def costs(sweep: Sweep) -> Section:
    """What each row took, and all of them together."""
    about = (
        "Time of everything that a row rests on, by the cards of the store, as if it had been made for this row alone; "
        "rows share parts, so the last line is less than their sum. Peak memory is that of the accelerator where one "
        "was used, else of the process."
    )
    lines: list[list[Cell | str]] = []
    everything: dict[str, dict[str, Any]] = {}
    for name, result in zip(sweep.rows, sweep.results, strict=True):
        cards = sweep.lineage(result["inputs"].values())
        everything |= cards
        training = result.get("training") or {}
        counts = [training.get("trainable_parameters"), training.get("samples_seen")]
        lines.append([name, *_cost(cards), *("" if not count else Cell(f"{count:,}", count) for count in counts)])
    if not everything:
        return Section("cost", "Cost", about, [sweep.absent])
    if len(lines) > 1:
        lines.append(["all rows, shared parts once", *_cost(everything), "", ""])
    kinds = ["training", "images", "classifiers"]
    columns = ["method", "in all", *kinds, "peak memory", "device", "trained parameters", "training samples"]
    return Section("cost", "Cost", about, [Table("Cost of each row", columns, lines)])


def _cost(cards: Mapping[str, Mapping[str, Any]]) -> list[Cell]:
    def seconds(kinds: Iterable[str] | None = None, *, without: Iterable[str] = ()) -> float:
        return sum(
            card["seconds"]
            for card in cards.values()
            if (kinds is None or card["kind"] in kinds) and card["kind"] not in without
        )

    named = KINDS["images"] | KINDS["classifiers"]
    parts = [seconds(), seconds(without=named), seconds(KINDS["images"]), seconds(KINDS["classifiers"])]
    peak = max((card["peak_memory_bytes"] for card in cards.values()), default=0)
    devices = sorted({card["device"] for card in cards.values()})
    return [
        *(Cell(duration(part), part) for part in parts),
        Cell(f"{peak / 2**30:.2f} GiB", peak),
        Cell(", ".join(devices)),
    ]


def commands(sweep: Sweep) -> Section:
    """What a person types to make each row again, and this report."""
    about = "Each line makes one row; what the store holds already is not made again."
    lines: list[Piece] = [Command(name, remake(job)) for name, job in zip(sweep.rows, sweep.jobs, strict=True)]
    asked = [f"report={sweep.folder}", *([] if sweep.store == STORE else [f"paths.store={sweep.store}"])]
    lines.append(Command("this report", f"python evaluate.py {shlex.join(asked)}"))
    return Section("commands", "Make it again", about, lines)


def remake(job: Job) -> str:
    """The command line of one job on its own; an experiment or sweep would else ask for all of theirs."""
    said = [f"{key}={value}" for key, value in job.told.items()]
    many = [key for key in job.told if key in ("experiment", "sweep")]
    return f"python evaluate.py {shlex.join([*said, *(['hydra.mode=RUN'] if many else [])])}".strip()
