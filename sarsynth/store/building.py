"""The artifact store: every stage leaves a folder named by what it was made from, and the next stage reads it.

Why ours: joblib.Memory keys a pickled return value by function and arguments, without locks; DVC wants its own pipeline
file and the working tree, which Hydra's sweeps own already; exca is the closest (pydantic settings, cached folders, a
read-only mode), but it caches what a method of a config class returns, keyed by that config: no inputs by content, no
card, no folder in which a killed training resumes. What a folder of our own layout still needs is small: a hash, a
lock, a hidden partial folder and a rename.
"""

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from sarsynth import processes
from sarsynth.errors import UserError
from sarsynth.files import clear_staging, open_to_others, sync, sync_all
from sarsynth.store.artifacts import CARD, CHECKPOINTS, Artifact, Request, read_card
from sarsynth.store.cards import FILLED, write_cards
from sarsynth.store.costs import ATTEMPTS, Attempt
from sarsynth.store.damage import check_whole

POLL_SECONDS = 0.2


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
        self.before_making: Callable[[], None] | None = None  # called once, before the first artifact is made
        self.met: dict[Artifact, bool] = {}  # what this process made or used, and whether it made it
        self.whole: set[Artifact] = set()  # what was there, and found to be
        self.planned: dict[Artifact, Request] = {}  # under `plan`: all that was asked for, in its order

    def make(self, request: Request, builder: Callable[[Path], None], *, collective: bool = False) -> Artifact:
        """Return one artifact, building it first if it is not there: `make_all` of one request."""
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
        if missing and self.before_making:
            prepare, self.before_making = self.before_making, None
            prepare()
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
        card = read_card(found[0])
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
            except BaseException as error:
                if isinstance(error, Exception) and not lead.is_dir():
                    raise UserError(
                        f"paths.store={self.root}: {lead.name} was removed while it was being made; run again"
                    ) from error
                for partial in partials.values():
                    _discard_empty(partial)
                raise
            for partial in partials.values():
                open_to_others(partial)
                sync_all(partial)  # before the cards are on disk
            (lead / FILLED).touch()
            shutil.rmtree(lead / CHECKPOINTS, ignore_errors=True)
        for partial in partials.values():
            clear_staging(partial)
        write_cards([*others, first], partials, lead)
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
            for writable in (folder, self.root / artifact.kind):
                if not os.access(writable, os.W_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(writable))
        except OSError as error:
            raise UserError(
                f"paths.store={self.root} cannot be written ({error.strerror}), and {artifact} is missing there; "
                "choose another"
            ) from error
        name = f"{artifact.kind}-{artifact.path.name}.lock"
        return FileLock(folder / name, poll_interval=POLL_SECONDS)

    def _tell(self, artifact: Artifact, made: bool) -> None:
        """Report an artifact the first time that this process meets it; look whether one that was there is whole."""
        if not made and artifact.complete and artifact not in self.whole:
            check_whole(artifact)
            self.whole.add(artifact)
        if self.build == "plan" and not made:  # which the plan itself tells
            return
        if artifact not in self.met and processes.rank() == 0:
            self._report(made_line(artifact) if made else f"reused {artifact}")
        self.met.setdefault(artifact, made)


def made_line(artifact: Artifact) -> str:
    """What is reported of an artifact that was made."""
    return f"made   {artifact} in {artifact.card['seconds']:.0f} s"


def _partial(artifact: Artifact) -> Path:
    return artifact.path.with_name(f".{artifact.path.name}.partial")


def _filled(partial: Path) -> bool:
    """Whether the builder was through with this folder (and those filled with it) when it was left."""
    return (partial / FILLED).exists() or (partial / CARD).is_file()


def _discard_empty(partial: Path) -> None:
    """Remove a partial folder in which nothing lies that a next attempt could go on from."""
    if all(path.is_dir() or path.name == ATTEMPTS for path in partial.rglob("*")):
        shutil.rmtree(partial, ignore_errors=True)  # why the build failed is what is to be told
