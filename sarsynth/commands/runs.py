"""What W&B is told of a job, and of a sweep as a whole: names that people read, and an id that stays.

A run of W&B is a job, whenever it is done: who stops one and gives its command again goes on with its run. So its id
follows from what is asked for, and from a word of the store, in which the work itself goes on; another store, of
somebody else or on another machine, has runs of its own. A sweep that is begun again keeps its group for the same
reason.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sarsynth import program
from sarsynth.config.components import Logger as Chosen
from sarsynth.config.hydra_internals import jobs_of_sweep
from sarsynth.config.schema import WANDB_NAME, WANDB_TAG, Settings
from sarsynth.errors import UserError
from sarsynth.files import shown, write_text
from sarsynth.report.jobs import differing, parse
from sarsynth.tracking import reach_wandb

WORD = ".runs"  # file of the store that holds the word
MULTIRUN = "multirun.yaml"  # Hydra's, in the folder of a sweep before its first job begins
# What changes how something is done, or where it is kept, and not what is made.
SILENT = ("logger", "preview", "paths", "trainer", "hydra", "encode", "build", "plan", "pack", "notice", "report")
AGENT = ("WANDB_SWEEP_ID", "WANDB_RUN_ID")  # who sets these has chosen the run


@dataclass(frozen=True)
class Swept:
    """The jobs of a sweep by their command lines, without what makes no difference."""

    jobs: tuple[Mapping[str, str], ...]
    data: str  # what they are of, unless they differ in it

    @classmethod
    def read(cls, folder: Path) -> "Swept | None":
        """Read what Hydra keeps in the folder of a sweep; None if it is of none."""
        with suppress(OSError, UserError, OmegaConfBaseException):
            config = OmegaConf.load(folder / MULTIRUN)
            jobs = jobs_of_sweep(config.hydra, config.hydra.overrides.task)
            return cls(tuple(telling(overrides) for overrides in jobs), str(config.data.name))
        return None

    def group(self, word: str, script: str) -> str:
        """Name them: what they are of, what varies, and a few digits that only these jobs have in this store."""
        keys = dict.fromkeys(key for job in self.jobs for key in job)
        varied = [key for key in keys if len({job.get(key) for job in self.jobs}) > 1]
        of_what = script if "data" in varied else self.jobs[0].get("experiment", self.data)
        digits = _digest(word, script, [sorted(job.items()) for job in self.jobs])[:6]
        name = f"{of_what} {', '.join(key.rpartition('.')[2] for key in varied)}"
        return f"{name[: WANDB_NAME - 7].strip()} {digits}"


def about_job(settings: Settings, folder: Path, overrides: Sequence[str], script: str) -> dict[str, Any]:
    """What a run of W&B is called; what the settings call it goes before our own words.

    Args:
        settings: Of the job.
        folder: Hydra's, of the job.
        overrides: Those of the job.
        script: To which of the scripts.
    """
    word, own, swept = _word(Path(settings.paths.store)), telling(overrides), Swept.read(folder.parent)
    differs = differing(own, swept.jobs) if swept else own
    words = [f"{_short(key)}={value}" for key, value in differs.items() if key not in ("data", "stage", "method")]
    stage = [settings.stage] if settings.stage else []
    name = " ".join([*stage, f"{settings.method.name}-{settings.data.name}", *words])
    group = swept.group(word, script) if swept else f"{settings.data.name} {settings.base.name}"
    asked = settings.model_dump(mode="json", by_alias=True, exclude=set(SILENT))
    run_id = _digest(word, script, group if swept else "", asked, sorted(own.items()) if swept else [])
    about = {
        "name": _cut(name),
        "group": group[:WANDB_NAME],
        "job_type": settings.stage or script,
        "tags": _tags(settings),
        "notes": notes(script, overrides, folder, settings.notice),
    }
    return about | ({} if any(key in os.environ for key in AGENT) else {"id": run_id}) | _said(settings)


def about_sweep(chosen: Chosen, folder: Path, store: Path, script: str, overrides: Sequence[str]) -> dict[str, Any]:
    """What the run of a sweep as a whole is called: it stands in the group of its jobs.

    Args:
        chosen: The logger of its jobs.
        folder: Hydra's, of the sweep.
        store: Of its jobs.
        script: To which of the scripts.
        overrides: Those of the command line.
    """
    word, swept, said = _word(store), Swept.read(folder), chosen.said
    group = swept.group(word, script) if swept else folder.name
    own = {"group": group[:WANDB_NAME], "name": _cut(f"sweep {group}"), "job_type": "sweep", "tags": ["sweep"]}
    own |= {"id": _digest(word, script, group), "notes": notes(script, ["-m", *overrides], folder, None)}
    return own | {key: value for key, value in said.items() if key in ("group", "tags", "notes")}


def logger_of(chosen: Chosen, folder: Path, about: Mapping[str, Any]) -> Callable[[], Logger]:
    """How a logger is built.

    Args:
        chosen: By the settings.
        folder: Where it keeps its files.
        about: What else its constructor gets.
    """
    mode = chosen.options.get("mode") or os.environ.get("WANDB_MODE", "online")
    reach = chosen.is_wandb and not chosen.options.get("offline") and mode == "online"

    def build() -> Logger:
        if reach:
            reach_wandb()
        return chosen.build(save_dir=str(folder), **about)

    return build


def telling(overrides: Sequence[str]) -> dict[str, str]:
    """Those overrides that change what is made, by key; without the signs of Hydra's grammar before a key."""
    every = {key.lstrip("+~"): value for key, value in parse(overrides).items()}
    return {key: value for key, value in every.items() if key.partition(".")[0].partition("/")[0] not in SILENT}


def notes(script: str, overrides: Sequence[str], folder: Path, notice: str | None) -> str:
    """Say how a run is made again, where it lies, and what readers have to know of it."""
    lines = [program.command(script, *overrides), shown(folder.absolute()), notice]
    return "\n".join(filter(None, lines))


def _said(settings: Settings) -> dict[str, Any]:
    return settings.logger.said if settings.logger else {}


def _tags(settings: Settings) -> list[str]:
    """What runs are found by."""
    tags = (settings.method.name, settings.data.name, settings.base.name, settings.data.split)
    return [tag[:WANDB_TAG] for tag in dict.fromkeys(tags)]


def _short(key: str) -> str:
    """What a key is called in a name: its last part, and of long ones the one before, as in `sar.max_steps`."""
    parts = key.split(".")
    return ".".join(parts[-1:] if len(parts) < 3 else parts[-2:])


def _cut(name: str) -> str:
    """Shorten a name to what W&B takes; digits at its end keep it apart from others."""
    return name if len(name) <= WANDB_NAME else f"{name[: WANDB_NAME - 7]}…{_digest(name)[:6]}"


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _word(store: Path) -> str:
    """The word of a store, made by its first run; of one that cannot be written, where it lies."""
    file = store / WORD
    try:
        (store / ".locks").mkdir(parents=True, exist_ok=True)
        with FileLock(store / ".locks" / "runs.lock"):
            if not file.is_file():
                write_text(file, f"{secrets.token_hex(8)}\n")
            return file.read_text(encoding="utf-8").strip()
    except OSError:
        return str(store.absolute())
