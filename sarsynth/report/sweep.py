"""A sweep as it lies on disk: its jobs, the rows of its tables, and the artifacts that they rest on."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sarsynth.errors import UserError
from sarsynth.evidence.comparison import SIGNIFICANCE, ScoredJob, of_second_set, read_or_compare
from sarsynth.evidence.results import RESULT
from sarsynth.report import rows
from sarsynth.report.jobs import Job, read_jobs, read_several, told_apart
from sarsynth.report.pieces import Note
from sarsynth.report.rows import Row
from sarsynth.store.artifacts import CARD, read_card

MOST_ROWS = 12  # whose pictures a page carries


@dataclass(frozen=True, eq=False)
class Sweep:
    """A sweep as it lies on disk; or a single run, which is a sweep of one job."""

    folder: Path  # of the sweep
    store: Path  # of the artifacts that its results rest on
    jobs: list[Job]  # those with scores, in their order
    failed: list[Job]  # those with an error
    sources: tuple[Path, ...] = ()  # the sweeps that it is made of, if it is made of several
    whole: "Sweep | None" = None  # of which it is a part, which compares its jobs
    second: bool = False  # whether its results are of the second test set (evaluate.also)

    @classmethod
    def read_several(cls, folders: Sequence[Path], store: Path, folder: Path) -> "Sweep":
        """Read the results of several folders as one sweep, whose own folder is another one.

        Raises:
            UserError: One of them holds no results, or only such as this version cannot read.
        """
        for one in folders:
            cls.read(one, store)
        jobs = read_several(folders)
        scored = [job for job in jobs if job.is_scored]
        return cls(folder, store, _ordered(scored), [job for job in jobs if job.error], tuple(folders))

    @classmethod
    def read(cls, folder: Path, store: Path) -> "Sweep":
        """Read the results of a folder.

        Raises:
            UserError: It is no folder of results, or holds only such as this version cannot read.
        """
        if not folder.is_dir():
            raise UserError(f"report={folder} is not a folder; give one of logs/sweeps/evaluate or logs/runs/evaluate")
        jobs = read_jobs(folder)
        scored = [job for job in jobs if job.is_scored]
        outdated = [job for job in jobs if job.error and (job.folder / RESULT).exists()]
        if not scored and outdated:
            raise UserError(str(outdated[0].error))
        if not scored:
            raise UserError(f"report={folder} holds no {RESULT} of evaluate.py; give the folder of its sweep")
        return cls.of(folder, store, jobs)

    @classmethod
    def of(cls, folder: Path, store: Path, jobs: Sequence[Job]) -> "Sweep":
        """The sweep that jobs of a folder are."""
        scored = [job for job in jobs if job.is_scored]
        return cls(folder, store, _ordered(scored), [job for job in jobs if job.error])

    @cached_property
    def results(self) -> list[dict[str, Any]]:
        """The content of result.json of each job."""
        return [job.result for job in self.jobs if job.result]

    @cached_property
    def names(self) -> list[str]:
        """Short names of the jobs, each its own."""
        times = Counter(job.heading for job in self.jobs)
        return [job.heading + f" #{job.key}" * (times[job.heading] > 1) for job in self.jobs]

    @cached_property
    def uncompared(self) -> list[Row]:
        """The rows of its tables, without intervals and gains."""
        overrides = [job.overrides for job in self.jobs]
        return [Row(*row) for row in zip(self.names, self.results, overrides, strict=True)]

    @cached_property
    def significance(self) -> dict[str, Any]:
        """Intervals and gains: as the sweep left them, if it was these jobs, else from the predictions in the store."""
        if self.whole is not None:
            return self.whole.significance["also"] if self.second else self.whole.significance
        # Rows of two sweeps are compared if they are of one data set and differ by nothing else than their method.
        alike = self.parts if self.sources else {"": self}
        scored = [
            ScoredJob(job.key, f"{label} {job.overrides}".strip(), result)
            for label, part in alike.items()
            for job, result in zip(part.jobs, part.results, strict=True)
        ]
        return read_or_compare(scored, self.store, self.folder / SIGNIFICANCE)

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of its tables."""
        entries = {entry["job"]: entry for entry in self.significance["rows"]}
        names = {job.key: name for name, job in zip(self.names, self.jobs, strict=True)}
        of_jobs = [entries[job.key] for job in self.jobs]
        pairs = zip(self.uncompared, of_jobs, strict=True)
        return [replace(row, entry=entry, baseline=names.get(entry["baseline"], "")) for row, entry in pairs]

    @cached_property
    def elsewhere(self) -> "Sweep | None":
        """The same jobs on their second test set, which has results of the same form; None if no job has one."""
        found = [(job, of_second_set(result)) for job, result in zip(self.jobs, self.results, strict=True)]
        jobs = [replace(job, result=result) for job, result in found if result]
        return replace(self, jobs=jobs, failed=[], whole=self, second=True) if jobs else None

    @cached_property
    def classes(self) -> dict[str, str]:
        """Headings of the classes of all jobs, by name; minor classes have a star."""
        return rows.classes(self.uncompared)

    @cached_property
    def parts(self) -> dict[str, "Sweep"]:
        """The sweep by data set: the jobs that are scored on one, by its name; one part without a name if it is one."""
        of_sets: dict[tuple[str, str, tuple[str, ...]], list[Job]] = {}
        for job, result in zip(self.jobs, self.results, strict=True):
            root = job.arguments.get("data.root", "")
            of_sets.setdefault((result["data"], root, tuple(result["classes"])), []).append(job)
        if len(of_sets) == 1:
            return {"": self}
        times = Counter(name for name, *_ in of_sets)
        labels = [f"{name} {Path(root).name}".strip() if times[name] > 1 else name for name, root, _ in of_sets]
        times = Counter(labels)
        labels = [f"{label} #{place}" if times[label] > 1 else label for place, label in enumerate(labels)]
        sweeps = [replace(self, jobs=_ordered(told_apart(jobs)), failed=[], whole=self) for jobs in of_sets.values()]
        return dict(zip(labels, sweeps, strict=True))

    @cached_property
    def _folders(self) -> dict[str, Path]:
        return {card.parent.name.rpartition("-")[2]: card.parent for card in self.store.glob(f"*/[!.]*/{CARD}")}

    @cached_property
    def _cards(self) -> dict[str, dict[str, Any]]:
        return {}

    def artifact(self, fingerprint: str | None) -> Path | None:
        """The folder of an artifact; None if the store lacks it."""
        return self._folders.get(fingerprint or "")

    def card(self, fingerprint: str) -> dict[str, Any] | None:
        """The card of an artifact; None if the store lacks it."""
        folder = self.artifact(fingerprint)
        if folder is not None and fingerprint not in self._cards:
            self._cards[fingerprint] = read_card(folder)
        return self._cards.get(fingerprint)

    def lineage(self, fingerprints: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The cards of artifacts and of all that they were made from."""
        cards: dict[str, dict[str, Any]] = {}
        waiting = list(fingerprints)
        while waiting:
            fingerprint = waiting.pop()
            card = self.card(fingerprint)
            if card and fingerprint not in cards:
                cards[fingerprint] = card
                waiting += card["inputs"].values()
        return cards

    @property
    def absent(self) -> Note:
        """Why something cannot be shown that is only in the store."""
        return Note(f"Not in the store at {self.store}; name the sweep's own with paths.store=… to see it.")


def _ordered(jobs: list[Job]) -> list[Job]:
    """Put rows that differ by their method alone in the order of tables: those without synthetic images first."""
    if any(job.differs for job in jobs):
        return jobs
    return sorted(jobs, key=lambda job: bool((job.result or {})["fidelity"].get("per_class")))
