"""`build=plan`: what is there, what would be made by which command, and what that would cost; of one job or a sweep.

A plan walks the way of a run, through a store that makes nothing but surveys (see `Store`): no network runs,
nothing is fetched. One process walks for all jobs of a sweep, whatever its launcher, so that what they share is named
once and the plan has one writer.

The file that `plan=` names holds

    version: 1
    script: train, generate or evaluate
    jobs: of each its overrides; device (null: an accelerator that is not here), processes (null: not known here) and
        precision; error, why it cannot be planned, or null
    artifacts: in the order in which they would be made, of each
        kind, label; fingerprint, null as long as something that it follows from is not there
        state: there, make, or fetch
        source: where it is to be fetched from, a repository of the hub or an address; else null
        command: that makes it, null unless that is its state
        unit, amount: the work in it; amount is an equal share where prototypes are not there yet (rough: true)
        seconds, memory_bytes, disk_bytes: expected, null if unknown or if it is there; memory is a peak
        jobs: that use it, by number
    totals: there, make, fetch (how many); seconds, disk_bytes, memory_bytes (the largest) of what is to be made, as far
        as they are known; untimed, unsized: of how many they are not; fetch_bytes, unsized_fetches: likewise
    stores: of each its path, disk_bytes that it is to take, free_bytes that there are
"""

import importlib
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sarsynth import processes
from sarsynth.commands.faults import told
from sarsynth.commands.outlook import OUTLOOK, Due, Outlook
from sarsynth.commands.preflight import rehearse
from sarsynth.commands.session import quieten
from sarsynth.config.checks import scale_warning
from sarsynth.config.hydra_internals import without_hydra
from sarsynth.config.schema import Settings
from sarsynth.console import SCREEN, console, is_shared
from sarsynth.errors import NotFetchedError, UserError, one_line
from sarsynth.files import write_json
from sarsynth.report.terminal import plan_summary, plan_table, size
from sarsynth.stages.study import Study
from sarsynth.store.artifacts import Artifact, Request
from sarsynth.store.building import made_line
from sarsynth.store.costs import Cost, Machine, Rates
from sarsynth.tracking import Tracker

VERSION = 1
Jobs = Sequence[tuple[Settings, Sequence[str]]]


@dataclass
class Line:
    """What a plan says of one artifact."""

    artifact: Artifact  # which
    wanted: Request | NotFetchedError  # the request for it, or what a network is to give
    machine: Machine  # where it is to be made
    root: Path  # of the store
    jobs: list[int] = field(default_factory=list)  # that use it, by number

    @property
    def state(self) -> str:
        """`there`, `make` or `fetch`."""
        if isinstance(self.wanted, NotFetchedError):
            return "fetch"
        return "there" if self.artifact.complete else "make"

    @property
    def due(self) -> Due:
        """The same for an outlook, of what is to be made."""
        assert isinstance(self.wanted, Request)
        fingerprint = self.artifact.fingerprint if self.artifact.known else None
        name, wanted = self.artifact, self.wanted
        return Due(name.kind, name.label, fingerprint, wanted.work, wanted.precision, self.machine, self.jobs)

    def cost(self, rates: Rates) -> Cost:
        """What it is expected to cost; what is there costs nothing.

        Memory that no card tells of stays unknown.
        """
        if isinstance(self.wanted, NotFetchedError):
            return Cost(disk_bytes=self.wanted.size_bytes)
        if self.state == "there" or self.wanted.work is None:
            return Cost()
        return rates.expect(self.wanted.work, self.wanted.precision, self.machine)

    def plain(self, rates: Rates) -> dict[str, Any]:
        """The same for the file."""
        request = self.wanted if isinstance(self.wanted, Request) else None
        work, cost = request and request.work, self.cost(rates)
        return {
            "kind": self.artifact.kind,
            "label": self.artifact.label,
            "fingerprint": self.artifact.fingerprint if self.artifact.known else None,
            "state": self.state,
            "source": self.wanted.source if isinstance(self.wanted, NotFetchedError) else None,
            "command": request.command if request and self.state == "make" else None,
            "unit": work and work.unit,
            "amount": work and work.amount,
            "rough": bool(work and work.rough),
            "seconds": cost.seconds,
            "memory_bytes": cost.memory_bytes,
            "disk_bytes": cost.disk_bytes,
            "jobs": self.jobs,
        }


def run(script: str, jobs: Jobs) -> None:
    """Print the plan of all jobs, and write it where `plan=` says.

    Args:
        script: `train`, `generate` or `evaluate`.
        jobs: Settings and overrides of each.

    Raises:
        UserError: The only job cannot be run, or the file cannot be written.
        SystemExit: Some job of a sweep cannot be run; the plan is of the others.
    """
    if processes.rank():  # of processes that torchrun or srun started, one plans
        return
    file = _file(jobs)
    quieten()
    lines: dict[Artifact, Line] = {}
    about = [_walk(script, number, *job, lines, alone=len(jobs) == 1) for number, job in enumerate(jobs)]
    plan = _plain(script, about, lines.values())
    if file:
        _write(plan, file)
    _show(plan)
    if any(job["error"] for job in about):
        sys.exit(1)


def _file(jobs: Jobs) -> Path | None:
    """Where the plan is to be written; refused now if it cannot be."""
    named = {settings.plan for settings, _ in jobs}
    if {settings.build for settings, _ in jobs} != {"plan"} or len(named) > 1:
        raise UserError("build and plan are the same for all jobs of a sweep; name one value of each")
    (name,) = named
    if name is None:
        return None
    file = Path(name).expanduser()
    if not file.parent.is_dir():
        raise UserError(f"plan={name}: no such folder: {file.parent}; make it, or name another file")
    if file.is_dir() or not os.access(file.parent, os.W_OK):
        why = "it is a folder" if file.is_dir() else f"no permission to write in {file.parent}"
        raise UserError(f"plan={name}: {why}; name another file")
    return file


def _write(plan: Mapping[str, Any], file: Path) -> None:
    try:
        write_json(file, plan)
    except OSError as error:
        raise UserError(f"plan={file}: cannot be written ({error.strerror}); name another file") from error


def _walk(
    script: str, number: int, settings: Settings, overrides: Sequence[str], lines: dict[Artifact, Line], *, alone: bool
) -> dict[str, Any]:
    """Go the way of one job; add what it asks for to `lines`, and return what is to be said of the job itself."""
    about: dict[str, Any] = {
        "overrides": list(overrides),
        "device": None,
        "processes": None,
        "precision": None,
        "error": None,
    }
    try:
        rehearse(settings, script)
        study = _study(settings, overrides)
        machine = study.compute.machine
        about |= {"device": machine.device, "processes": machine.processes, "precision": study.precision.name}
        if warning := scale_warning(settings):
            console.print(f"[yellow]warning:[/] {warning}")
        with told(settings.paths, study.store):
            importlib.import_module(f"sarsynth.commands.{script}").artifacts(study)
    except UserError as error:
        if alone:
            raise
        return about | {"error": one_line(error)}
    wanted: dict[Artifact, Request | NotFetchedError] = {**study.absent, **study.store.planned}
    for artifact, request in wanted.items():
        lines.setdefault(artifact, Line(artifact, request, machine, study.store.root)).jobs.append(number)
    return about


def _study(settings: Settings, overrides: Sequence[str]) -> Study:
    return Study(settings, Tracker(None), without_hydra(overrides))


def tell_outlook(script: str, jobs: Jobs, folder: Path) -> None:
    """Say what is to be made for a sweep, as its first job begins; find it out, unless that was done before it began.

    Args:
        script: `train`, `generate` or `evaluate`.
        jobs: Settings and overrides of each.
        folder: Of the sweep.
    """
    if any(settings.build != "auto" or settings.report for settings, _ in jobs):
        return
    file = folder / SCREEN / OUTLOOK
    if not file.exists():
        foresee(script, jobs, folder)
    if not is_shared():
        for text in Outlook.read(file).lines(1):
            console.print(f"  {text}", markup=False)


def foresee(script: str, jobs: Jobs, folder: Path) -> bool:
    """Find out what is to be made for a sweep, and leave it in its folder.

    Nothing is made but surveys of images. What cannot be planned is left to the job itself, which says what is wrong.

    Returns:
        Whether the store has all that the jobs ask for.
    """
    began = time.time()
    lines = _planned(importlib.import_module(f"sarsynth.commands.{script}").artifacts, jobs)
    due = [line.due for line in lines if line.state == "make"]
    there = sum(line.state == "there" for line in lines)
    outlook = Outlook(due, there, Path(jobs[0][0].paths.store), began)
    (folder / SCREEN).mkdir(parents=True, exist_ok=True)
    outlook.write(folder / SCREEN / OUTLOOK)
    return there > 0 and there == len(lines)


def _planned(artifacts: Callable[[Study], list[Artifact]], jobs: Jobs) -> list[Line]:
    """What jobs ask for, as far as they can be planned; surveys of images are made."""
    quieten()
    lines: dict[Artifact, Line] = {}
    quiet = console.quiet
    for number, (settings, overrides) in enumerate(jobs):
        study = _study(settings.model_copy(update={"build": "plan"}), overrides)
        console.quiet = True
        try:
            with suppress(UserError):
                artifacts(study)
        finally:
            console.quiet = quiet
        for survey in [artifact for artifact, made in study.store.met.items() if made]:
            console.print(made_line(survey))
        asked: dict[Artifact, Request | NotFetchedError] = {**study.absent, **study.store.planned}
        for artifact, request in asked.items():
            line = Line(artifact, request, study.compute.machine, study.store.root)
            lines.setdefault(artifact, line).jobs.append(number)
    return list(lines.values())


def _plain(script: str, about: Sequence[Mapping[str, Any]], lines: Collection[Line]) -> dict[str, Any]:
    """Everything that the plan says, as its file holds it."""
    rates = {root: Rates.read(root) for root in dict.fromkeys(line.root for line in lines)}
    artifacts = [line.plain(rates[line.root]) for line in lines]
    stores = [
        {
            "path": str(root),
            "disk_bytes": sum(
                artifact["disk_bytes"] or 0
                for line, artifact in zip(lines, artifacts, strict=True)
                if line.root == root and line.state == "make"
            ),
            "free_bytes": _free(root),
        }
        for root in rates
    ]
    return {
        "version": VERSION,
        "script": script,
        "jobs": list(about),
        "artifacts": artifacts,
        "totals": _totals(artifacts),
        "stores": stores,
    }


def _totals(artifacts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How much is there, to be made and to be fetched, and what that costs as far as it is known."""
    states = {
        state: [artifact for artifact in artifacts if artifact["state"] == state]
        for state in ("there", "make", "fetch")
    }

    def known(state: str, key: str) -> list[Any]:
        return [artifact[key] for artifact in states[state] if artifact[key] is not None]

    return {
        **{state: len(of_state) for state, of_state in states.items()},
        "seconds": sum(known("make", "seconds")),
        "untimed": len(states["make"]) - len(known("make", "seconds")),
        "disk_bytes": sum(known("make", "disk_bytes")),
        "unsized": len(states["make"]) - len(known("make", "disk_bytes")),
        "memory_bytes": max(known("make", "memory_bytes"), default=None),
        "fetch_bytes": sum(known("fetch", "disk_bytes")),
        "unsized_fetches": len(states["fetch"]) - len(known("fetch", "disk_bytes")),
    }


def _free(root: Path) -> int:
    """Bytes that are free where a store lies, or will."""
    there = root.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def _show(plan: Mapping[str, Any]) -> None:
    """Print what the file holds."""
    if len(plan["jobs"]) > 1:
        shared = set.intersection(*(set(job["overrides"]) for job in plan["jobs"]))
        for number, job in enumerate(plan["jobs"]):
            own = [override for override in job["overrides"] if override not in shared]
            console.print(f"  #{number} {' '.join(own)}", markup=False)
    console.print(plan_table(plan))
    commands: dict[frozenset[str], str] = {}  # in whatever order their overrides stand
    for artifact in plan["artifacts"]:
        if command := artifact["command"]:
            commands.setdefault(frozenset(shlex.split(command)), command)
    for command in commands.values():
        console.print(f"  {command}", markup=False)
    console.print(f"  {plan_summary(plan)}", markup=False)
    for store in plan["stores"]:
        if store["disk_bytes"] > store["free_bytes"]:
            console.print(
                f"[yellow]warning:[/] paths.store={store['path']} has {size(store['free_bytes'])} left, and this takes "
                f"{size(store['disk_bytes'])} at least; free some, or choose another"
            )
    for number, job in enumerate(plan["jobs"]):
        if job["error"]:
            console.print(f"  #{number}: {job['error']}", markup=False)
