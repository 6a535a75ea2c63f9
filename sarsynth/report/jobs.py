"""The jobs of a sweep as they lie on disk: command lines, results, errors, logged curves. Torch-free."""

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sarsynth.errors import ERROR_FILE, UserError, one_line
from sarsynth.evidence.results import RESULT, read_result

SILENT = ("hydra", "paths.", "logger", "+logger", "trainer", "evaluate.baseline", "evaluate.also", "data@evaluate.also")
ELSEWHERE = ("experiment", "build", "plan", "pack", "notice")  # keys that say how jobs run, or stand for others


@dataclass(frozen=True)
class Job:
    """One job of a sweep."""

    folder: Path  # Hydra's, of the job
    result: dict[str, Any] | None  # the content of its result.json, None if it has none
    error: str | None  # why it failed, None if it did not
    method: str  # its method; empty if neither the command line nor a result says it
    arguments: dict[str, str]  # its overrides on the command line, by key
    differs: dict[str, str]  # those of them, beside the method, that not every job of the sweep has
    key: str = ""  # its own among the jobs: in one sweep, the name of its folder
    sweep: str = ""  # that it is of, where there are several

    @property
    def is_scored(self) -> bool:
        """Whether it has scores of classifiers."""
        return self.result is not None and "classifier" in self.result

    @property
    def overrides(self) -> str:
        """What sets the job apart besides its method, as on the command line."""
        return " ".join(f"{key}={value}" for key, value in self.differs.items())

    @property
    def name(self) -> str:
        """What sets the job apart."""
        return f"{self.method} {self.overrides}".strip() or self.folder.name

    @property
    def heading(self) -> str:
        """The name with no more than the last part of each key."""
        return heading(self.method, self.differs) or self.folder.name


def read_jobs(folder: Path) -> list[Job]:
    """Read the folders of a sweep's jobs, in their order; the folder of a single run is its own only job."""
    arguments = {
        path.parents[1]: parse(_read_overrides(path))
        for path in [*folder.glob("*/.hydra/overrides.yaml"), *folder.glob(".hydra/overrides.yaml")]
    }
    jobs = []
    for path in sorted(arguments, key=lambda path: (len(path.name), path.name)):
        result, file = None, path / ERROR_FILE
        error = file.read_text(encoding="utf-8", errors="replace").strip() if file.exists() else None
        try:
            result = read_result(path / RESULT)
            if result is not None and error:  # what it is: a job that failed, with a result that may be another run's
                result, error = None, f"{error} (after it had written {RESULT}, which is not shown)"
        except UserError as outdated:
            error = error or str(outdated)
        differs = differing(arguments[path], arguments.values())
        method = arguments[path].get("method") or (result or {}).get("method", "")
        jobs.append(Job(path, result, error, method, arguments[path], differs, path.name))
    return jobs


def read_several(folders: Sequence[Path]) -> list[Job]:
    """Read the jobs of several sweeps as if they were of one; a job that is in two of them is read once.

    Of two that are one but for a second test set (evaluate.also), that which has it is read.
    """
    jobs: dict[tuple[str, str], Job] = {}
    for number, folder in enumerate(folders):
        label = f"{folder.name} #{number}" if [one.name for one in folders].count(folder.name) > 1 else folder.name
        for job in read_jobs(folder):
            known = job.method, str(job.folder)
            if job.is_scored and job.result:
                known = job.method, str([job.result["data"], job.result["inputs"]])
            if known not in jobs or (_has_second(job) and not _has_second(jobs[known])):
                jobs[known] = replace(job, key=f"{number}/{job.folder.name}", sweep=label)
    return told_apart(jobs.values())


def told_apart(jobs: Iterable[Job]) -> list[Job]:
    """Find out anew by what each of these jobs differs from the others: overrides, and the sweep if these do not do."""
    jobs = list(jobs)
    said = [{key: value for key, value in job.arguments.items() if not _says_nothing(key)} for job in jobs]
    found = [differing(own, said) for own in said]
    names = [heading(job.method, differs) for job, differs in zip(jobs, found, strict=True)]
    if len(set(names)) < len(names):
        said = [{"sweep": job.sweep} | own for job, own in zip(jobs, said, strict=True)]
        found = [differing(own, said) for own in said]
    return [replace(job, differs=differs) for job, differs in zip(jobs, found, strict=True)]


def _has_second(job: Job) -> bool:
    return bool(job.result and job.result.get("also"))


def _says_nothing(key: str) -> bool:
    """Whether an override has no influence on the scores of a job, so that jobs of two sweeps may differ by it."""
    return key.startswith(SILENT) or key in ELSEWHERE


def _read_overrides(file: Path) -> list[str]:
    """Read what Hydra keeps of a command line.

    Raises:
        UserError: The file is damaged.
    """
    try:
        lines = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{file} cannot be read ({one_line(error)}); mend it, or remove its folder") from error
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise UserError(f"{file} is no list of overrides; mend it, or remove its folder")
    return lines


def heading(method: str, differs: Mapping[str, str]) -> str:
    """Name a job by its method and what else sets it apart, no more than the last part of each key."""
    return " ".join([method, *(f"{key.rpartition('.')[2]}={value}" for key, value in differs.items())]).strip()


def differing(arguments: Mapping[str, str], every: Collection[Mapping[str, str]]) -> dict[str, str]:
    """Those overrides of a job, beside its method, that not every job of its sweep has."""
    return {
        key: value
        for key, value in arguments.items()
        if key != "method" and any(others.get(key) != value for others in every)
    }


def parse(overrides: Iterable[str]) -> dict[str, str]:
    """Split overrides into keys and values."""
    return dict(line.partition("=")[::2] for line in overrides)


def read_curves(file: Path) -> dict[str, np.ndarray]:
    """Read the scalars that the CSV logger wrote: step and value, float (N, 2), of each that has more than one.

    Where several train together and one ends before the others, Lightning writes its last value on and on: that is cut.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    with file.open(newline="", encoding="utf-8") as handle:
        for line in csv.DictReader(handle):
            for key, text in line.items():
                if text and key != "step" and line["step"]:
                    points.setdefault(key, []).append((float(line["step"]), float(text)))
    curves = {key: np.array(curve) for key, curve in points.items() if len(curve) > 1}
    changes = {key: np.flatnonzero(np.diff(curve[:, 1])) for key, curve in curves.items()}
    return {key: curve[: changes[key][-1] + 2] if len(changes[key]) else curve for key, curve in curves.items()}
