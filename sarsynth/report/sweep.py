"""A sweep as it lies on disk: its jobs, the rows of its tables, and the artifacts that they rest on."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sarsynth.errors import UserError
from sarsynth.evidence.comparison import SIGNIFICANCE, ScoredJob, read_or_compare
from sarsynth.evidence.results import RESULT
from sarsynth.report import rows
from sarsynth.report.jobs import Job, read_jobs
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
        return cls(folder, store, _ordered(scored), [job for job in jobs if job.error])

    @cached_property
    def results(self) -> list[dict[str, Any]]:
        """The content of result.json of each job."""
        return [job.result for job in self.jobs if job.result]

    @cached_property
    def names(self) -> list[str]:
        """Short names of the jobs, each its own."""
        times = Counter(job.heading for job in self.jobs)
        return [job.heading + f" #{job.folder.name}" * (times[job.heading] > 1) for job in self.jobs]

    @cached_property
    def uncompared(self) -> list[Row]:
        """The rows of its tables, without intervals and gains."""
        overrides = [job.overrides for job in self.jobs]
        return [Row(*row) for row in zip(self.names, self.results, overrides, strict=True)]

    @cached_property
    def significance(self) -> dict[str, Any]:
        """Intervals and gains: as the sweep left them, if it was these jobs, else from the predictions in the store."""
        jobs = zip(self.jobs, self.results, strict=True)
        scored = [ScoredJob(job.folder.name, job.overrides, result) for job, result in jobs]
        return read_or_compare(scored, self.store, self.folder / SIGNIFICANCE)

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of its tables."""
        entries = {entry["job"]: entry for entry in self.significance["rows"]}
        names = {job.folder.name: name for name, job in zip(self.names, self.jobs, strict=True)}
        of_jobs = [entries[job.folder.name] for job in self.jobs]
        pairs = zip(self.uncompared, of_jobs, strict=True)
        return [replace(row, entry=entry, baseline=names.get(entry["baseline"], "")) for row, entry in pairs]

    @cached_property
    def classes(self) -> dict[str, str]:
        """Headings of the classes of all jobs, by name; minor classes have a star."""
        return rows.classes(self.uncompared)

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
