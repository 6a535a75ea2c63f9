"""The artifact store: every stage leaves a folder named by what it was made from, and the next stage reads it.

Why ours: joblib.Memory keys a pickled return value by function and arguments, without locks; DVC wants its own pipeline
file and the working tree, which Hydra's sweeps own already; exca is the closest (pydantic settings, cached folders, a
read-only mode), but it caches what a method of a config class returns, keyed by that config: no inputs by content, no
card, no folder in which a killed training resumes. What a folder of our own layout still needs is small: a hash, a
lock, a hidden partial folder and a rename.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from sarsynth import __version__, processes
from sarsynth.costs import ATTEMPTS, Attempt, Work, device
from sarsynth.errors import UserError
from sarsynth.files import sync, sync_all, write_json

JSON = Any  # None, bool, int, float or str, or lists and str-keyed mappings of these

CARD = "card.json"
CHECKPOINTS = "checkpoints"  # a builder's own, inside its partial folder; gone once the artifact is complete
FILLED = ".filled"  # the builder is through; what is left are cards and names
POLL_SECONDS = 0.2
UNKNOWN = "?"  # begins what stands for a fingerprint as long as something it follows from is not there


@dataclass(frozen=True)
class Artifact:
    """A folder of the store; complete, and never changed again, as soon as it holds its card."""

    kind: str
    label: str
    fingerprint: str
    path: Path

    @property
    def complete(self) -> bool:
        """Whether the card, which is written last, is there."""
        return (self.path / CARD).is_file()

    @property
    def known(self) -> bool:
        """Whether the fingerprint is one, and not what stands for it in a plan."""
        return not self.fingerprint.startswith(UNKNOWN)

    @property
    def card(self) -> dict[str, JSON]:
        """What the artifact is, from what it was made, when, by which code and at what cost."""
        return json.loads((self.path / CARD).read_text())

    def __str__(self) -> str:
        return f"{self.kind}/{self.label}-{self.fingerprint}"


@dataclass(frozen=True, eq=False)
class Request:
    """An artifact that somebody asks for.

    Attributes:
        kind: Folder of the store: `adapter`, `classifier`, ...
        name: For people; as a label it is part of the folder's name, not of the fingerprint.
        settings: Everything that changes the content, and nothing else (no paths, no speed switches).
        inputs: The artifacts it is made from, by role.
        version: Of the builder: raised whenever a change of its code changes what it makes, so that nothing that an
            earlier one made is taken for it.
        command: What a person types to make this artifact; quoted under `build=require`.
        precision: In which precision networks compute it (see `sarsynth.precision`); None where no network does.
        samples: Which samples it reads itself, by digest; its card also lists those of its inputs, and through which.
        work: How much there is to do, None if nobody counts it.
        follows: Artifacts whose content settings were read from; where one is not there, which only a plan lets pass,
            the settings are supposed, and the fingerprint is what stands for it.
        survey: Whether it is a look at data alone, from which other fingerprints follow; a plan has it made.
    """

    kind: str
    name: str
    settings: Mapping[str, JSON]
    inputs: Mapping[str, Artifact]
    version: int
    command: str
    precision: str | None = None
    samples: Mapping[str, JSON] = field(default_factory=dict)
    work: Work | None = None
    follows: Sequence[Artifact] = ()
    survey: bool = False

    @property
    def label(self) -> str:
        """The name in letters that any file system takes."""
        return re.sub(r"[^A-Za-z0-9._-]+", "_", self.name)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that decides the content.

        Where that is not known yet, what stands for it: equal ones will be one artifact.
        """
        absent = {str(number): made for number, made in enumerate(self.follows) if not made.complete}
        inputs = {**self.inputs, **absent}
        content = fingerprint(self.kind, self.settings, inputs, self.version, self.precision)
        return content if not absent and all(made.known for made in inputs.values()) else UNKNOWN + content

    def card(self) -> dict[str, JSON]:
        """What the card says before the artifact is made."""
        samples = dict(self.samples)
        for role, made in self.inputs.items():
            theirs = made.card.get("samples", {}) if made.complete else {}  # what came from elsewhere has no card
            samples = {digest: seen | {"through": role} for digest, seen in theirs.items()} | samples
        return {
            "kind": self.kind,
            "label": self.label,
            "fingerprint": self.fingerprint,
            "settings": self.settings,
            "inputs": {role: made.fingerprint for role, made in self.inputs.items()},
            "version": self.version,
            "precision": self.precision,
            "samples": samples,
            "work": self.work and self.work.plain,
        }


def fingerprint(
    kind: str, settings: Mapping[str, JSON], inputs: Mapping[str, Artifact], version: int, precision: str | None = None
) -> str:
    """Hash everything that decides an artifact's content: 16 hex digits, whatever the order of the keys.

    Raises:
        TypeError, ValueError: A setting is not JSON (NaN is not).
    """
    content = {
        "kind": kind,
        "settings": settings,
        "inputs": {role: made.fingerprint for role, made in inputs.items()},
        "version": version,
        "precision": precision,
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class Store:
    """Artifacts under one root, which may lie on a shared file system.

    Args:
        root: The folder; made when the first artifact is.
        build: `auto` makes what is missing, `require` stops there and names the command that makes it, `plan` makes
            surveys alone and notes the rest; what it returns then need not be there.
        report: Takes one line for each artifact made, reused or waited for.
        patience: Seconds that a process of rank above 0 waits while nobody builds what it needs.
    """

    def __init__(
        self,
        root: Path,
        build: Literal["auto", "require", "plan"] = "auto",
        report: Callable[[str], None] = print,
        patience: float = 600.0,
    ) -> None:
        self.root = Path(root)
        self.build = build
        self.patience = patience
        self._report = report
        self.met: dict[Artifact, bool] = {}  # what this process made or used, and whether it made it
        self.planned: dict[Artifact, Request] = {}  # under `plan`: all that was asked for, in its order

    def make(
        self,
        kind: str,
        label: str,
        settings: Mapping[str, JSON],
        inputs: Mapping[str, Artifact],
        builder: Callable[[Path], None],
        *,
        version: int,
        command: str,
        precision: str | None = None,
        samples: Mapping[str, JSON] | None = None,
        work: Work | None = None,
        follows: Sequence[Artifact] = (),
        survey: bool = False,
        collective: bool = False,
    ) -> Artifact:
        """Return one artifact, building it first if it is not there: `make_all` of one `Request`."""
        request = Request(
            kind, label, settings, inputs, version, command, precision, samples or {}, work, follows, survey
        )
        return self.make_all([request], lambda folders: builder(folders[request]), collective=collective)[request]

    def make_all(
        self,
        requests: Sequence[Request],
        builder: Callable[[Mapping[Request, Path]], None],
        *,
        collective: bool = False,
    ) -> dict[Request, Artifact]:
        """Return artifacts, building those that are not there in one go.

        One process builds, others wait for it. The builder fills a hidden folder for each request that is missing;
        they take their final names only when all are filled. After a kill or an exception those folders stay, if
        anything lies in them, and the next builder finds them as they were left, with the checkpoints it kept under
        `checkpoints/` of the first.

        In a distributed job (rank from RANK, LOCAL_RANK or SLURM_PROCID) rank 0 builds and the others wait for the
        cards. All ranks of the job must then ask for the same artifacts in the same order.

        Args:
            requests: What is asked for.
            builder: Writes the content of each missing request into its folder.
            collective: The builder runs a distributed fit, which the ranks above 0 have to join.

        Raises:
            UserError: An artifact is missing under `build=require`, the store cannot be written, or rank 0 never
                made it.
        """
        artifacts = {request: self._artifact(request) for request in requests}
        missing = self._missing(artifacts)
        if missing and processes.rank() > 0:
            self._follow([artifacts[request] for request in missing], missing, builder if collective else None)
        elif missing:
            with ExitStack() as turns:
                # In one order for everybody, so that no two processes wait for each other.
                for artifact in sorted((artifacts[request] for request in missing), key=lambda made: made.path):
                    turns.enter_context(self._turn(artifact))
                missing = [request for request in missing if not artifacts[request].complete]
                if missing:
                    self._build({request: artifacts[request] for request in missing}, builder)
        for request, artifact in artifacts.items():
            made = request in missing
            self._tell(artifact, made)
        return artifacts

    def make_each(
        self, requests: Sequence[Request], builder: Callable[[Request, Path], None]
    ) -> dict[Request, Artifact]:
        """Return artifacts that do without each other; all processes of a job build at once, each one at a time.

        A process builds what no other has begun, and when nothing is left waits for the others. What one that died had
        begun another one goes on with, so nobody waits for a dead process.

        Args:
            requests: What is asked for, by all processes of the job. What it is made from must be there.
            builder: Writes the content of a missing request into its folder, without the help of other processes.

        Raises:
            UserError: An artifact is missing under `build=require`, or the store cannot be written.
        """
        artifacts = {request: self._artifact(request) for request in requests}
        missing = self._missing(artifacts)
        first = processes.rank() % max(1, len(missing))  # not all at the same door
        for wait in (False, True):
            for request in (*missing[first:], *missing[:first]):
                self._build_alone(request, artifacts[request], builder, wait=wait)
        for request, artifact in artifacts.items():
            self._tell(artifact, made=request in missing and processes.count() > 1)  # by another process of this job
        return artifacts

    def _build_alone(
        self, request: Request, artifact: Artifact, builder: Callable[[Request, Path], None], *, wait: bool
    ) -> None:
        """Build an artifact unless another process has done so, or does so now and we are not to wait for it."""
        if artifact.complete:
            return
        with ExitStack() as turn:
            try:
                turn.enter_context(self._turn(artifact) if wait else self._lock(artifact).acquire(timeout=0))
            except Timeout:
                return
            if not artifact.complete:
                self._build({request: artifact}, lambda folders: builder(request, folders[request]))
                self._tell(artifact, made=True)

    def _missing(self, artifacts: Mapping[Request, Artifact]) -> list[Request]:
        """What of these is to be built now."""
        missing = [request for request, artifact in artifacts.items() if not artifact.complete]
        if missing and self.build == "require":
            raise UserError(
                f"{artifacts[missing[0]]} is missing in {self.root} and build=require; "
                f"make it with: {missing[0].command}"
            )
        if self.build == "plan":
            for request, artifact in artifacts.items():
                self.planned.setdefault(artifact, request)
            missing = [request for request in missing if request.survey]
        return missing

    def _artifact(self, request: Request) -> Artifact:
        name = f"{request.label}-{request.fingerprint}"
        return Artifact(request.kind, request.label, request.fingerprint, self.root / request.kind / name)

    def find(self, kind: str, reference: str | Path) -> Artifact:
        """Look a complete artifact up by its folder, or by (the beginning of) its fingerprint.

        Raises:
            UserError: There is none, or more than one.
        """
        if (Path(reference) / CARD).is_file():
            folders = [Path(reference)]
        else:
            folders = [card.parent for card in (self.root / kind).glob(f"*-{reference}*/{CARD}")]
        found = [folder for folder in folders if not folder.name.startswith(".")]
        if len(found) != 1:
            count = "no artifact" if not found else f"{len(found)} artifacts"
            raise UserError(f"{count} of kind {kind} in {self.root} for {reference}; give its folder or fingerprint")
        card = json.loads((found[0] / CARD).read_text())
        if card["kind"] != kind:
            raise UserError(f"{found[0]} is of kind {card['kind']}, not {kind}; give the folder of another artifact")
        return Artifact(card["kind"], card["label"], card["fingerprint"], found[0])

    def _build(self, artifacts: Mapping[Request, Artifact], builder: Callable[[Mapping[Request, Path]], None]) -> None:
        """Fill the partial folders, write their cards, give them their names.

        The first one is the last to get its card and its name: as long as it is not complete, whoever comes after a
        kill finds in its folder how far the others had come.
        """
        partials = {request: _partial(artifact) for request, artifact in artifacts.items()}
        first, *others = partials
        lead = partials[first]
        if not _filled(lead):
            for partial in partials.values():
                partial.mkdir(parents=True, exist_ok=True)
            try:
                with Attempt(lead):
                    builder(partials)
            except BaseException:
                for partial in partials.values():
                    _discard_empty(partial)
                raise
            for partial in partials.values():
                sync_all(partial)  # before the cards are on disk
            (lead / FILLED).touch()
            shutil.rmtree(lead / CHECKPOINTS, ignore_errors=True)
        _write_cards([*others, first], partials, lead)
        for request in (*others, first):
            artifact, partial = artifacts[request], partials[request]
            for note in (ATTEMPTS, FILLED):
                (partial / note).unlink(missing_ok=True)
            if artifact.path.exists():  # without a card: not ours, nothing that a reader would take for an artifact
                shutil.rmtree(artifact.path)
            os.replace(partial, artifact.path)
            sync(artifact.path.parent)

    def _follow(
        self,
        artifacts: Sequence[Artifact],
        requests: Sequence[Request],
        joins: Callable[[Mapping[Request, Path]], None] | None,
    ) -> None:
        """What a process of rank above 0 does: join rank 0's fit if there is one, then wait for the cards."""

        def complete() -> bool:
            return all(artifact.complete for artifact in artifacts)

        partials = [_partial(artifact) for artifact in artifacts]
        if joins:
            self._wait(artifacts[0], lambda: complete() or partials[0].exists())
            if not complete() and not _filled(partials[0]):
                joins(dict(zip(requests, partials, strict=True)))
        self._wait(artifacts[0], complete)

    def _wait(self, artifact: Artifact, arrived: Callable[[], bool]) -> None:
        lock, alive = self._lock(artifact), time.monotonic()
        while not arrived():
            try:
                lock.acquire(timeout=0)
                lock.release()
            except Timeout:
                alive = time.monotonic()
            if time.monotonic() - alive > self.patience:
                raise UserError(f"{artifact}: nobody has been making it for {self.patience:.0f} s; see rank 0's output")
            time.sleep(POLL_SECONDS)

    @contextmanager
    def _turn(self, artifact: Artifact) -> Iterator[None]:
        """Hold the right to build an artifact, saying so once if another process has it now."""
        lock = self._lock(artifact)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self._report(f"waiting for {artifact}: another process is making it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _lock(self, artifact: Artifact) -> FileLock:
        folder = self.root / ".locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (self.root / artifact.kind).mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"paths.store={self.root} cannot be written ({error.strerror}); choose another") from error
        name = f"{artifact.kind}-{artifact.path.name}.lock"
        return FileLock(folder / name, poll_interval=POLL_SECONDS)

    def _tell(self, artifact: Artifact, made: bool) -> None:
        """Report an artifact the first time that this process meets it."""
        if self.build == "plan" and not made:  # which the plan itself tells
            return
        if artifact not in self.met and processes.rank() == 0:
            self._report(f"made   {artifact} in {artifact.card['seconds']:.0f} s" if made else f"reused {artifact}")
        self.met.setdefault(artifact, made)


def _partial(artifact: Artifact) -> Path:
    return artifact.path.with_name(f".{artifact.path.name}.partial")


def _filled(partial: Path) -> bool:
    """Whether the builder was through with this folder (and those filled with it) when it was left."""
    return (partial / FILLED).exists() or (partial / CARD).is_file()


def _discard_empty(partial: Path) -> None:
    """Remove a partial folder in which nothing lies that a next attempt could go on from."""
    if all(path.is_dir() or path.name == ATTEMPTS for path in partial.rglob("*")):
        shutil.rmtree(partial)


def _write_cards(requests: Sequence[Request], partials: Mapping[Request, Path], lead: Path) -> None:
    """Say in each folder what it is and what it cost, in this order; `lead` knows the cost of all of them."""
    spent = json.loads((lead / ATTEMPTS).read_text()) if (lead / ATTEMPTS).exists() else {}
    shares, git = _shares(requests), _git_commit()
    for request in requests:
        if (partials[request] / CARD).is_file():
            continue
        facts = {
            "sarsynth": __version__,
            "git": git,
            "device": device(),
            "processes": processes.count(),
            "seconds": round(spent.get("seconds", 0.0) * shares[request], 3),
            "peak_memory_bytes": spent.get("peak_memory_bytes", 0),
            "disk_bytes": _size(partials[request]),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_json(partials[request] / CARD, request.card() | facts)


def _shares(requests: Sequence[Request]) -> dict[Request, float]:
    """Share the time of one build out among what it made: by work, equally where nobody counts it."""
    amounts = [request.work.amount if request.work else 0 for request in requests]
    if not all(amounts):
        amounts = [1] * len(requests)
    return {request: amount / sum(amounts) for request, amount in zip(requests, amounts, strict=True)}


def _size(folder: Path) -> int:
    """Bytes of the files that an artifact is going to have, its card apart."""
    notes = (ATTEMPTS, FILLED)
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.name not in notes)


def _git_commit() -> str | None:
    """The commit of the checkout that this code runs from; None for an installed copy."""
    checkout = Path(__file__).parents[1]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
