"""Look at this machine before a study runs on it: `evaluate.py doctor=true base=sd15` says what would stop it."""

import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import torch
import wandb
from filelock import FileLock, Timeout
from huggingface_hub import constants
from packaging.requirements import Requirement
from rich.table import Table
from rich.text import Text

from sarsynth import __version__
from sarsynth.classifier import pretrained
from sarsynth.commands.preflight import trains_classifier
from sarsynth.commands.session import quieten
from sarsynth.config.schema import Settings
from sarsynth.console import console
from sarsynth.diffusion import base as base_files
from sarsynth.diffusion import controlnet as controlnet_files
from sarsynth.diffusion import hub
from sarsynth.diffusion.hub import ModelSetting
from sarsynth.errors import NotFetchedError, UserError, one_line
from sarsynth.program import command, install
from sarsynth.report.terminal import size
from sarsynth.tracking import reach_wandb
from sarsynth.training.compute import Compute

GIB = 2**30
LITTLE_MEMORY = 4 * GIB  # two jobs of the demo, which take 2.1 GB each
LITTLE_DISK = 10 * GIB  # the weights of Stable Diffusion v1.5, and a study's images
LONGEST = 3.0  # seconds that the hub has to answer
COLOURS = {"ok": "green", "note": "yellow", "stops": "red"}


@dataclass(frozen=True)
class Finding:
    """What was found of one thing."""

    name: str
    said: str
    state: Literal["ok", "note", "stops"] = "ok"  # `note` goes on without it or slowly; `stops`, the run would fail
    step: str = ""  # what mends it


def run(script: str, settings: Settings) -> bool:
    """Print what this machine has for a run with these settings, and a verdict.

    Args:
        script: `train`, `generate` or `evaluate`.
        settings: Those that the run would have.

    Returns:
        Whether it would run.
    """
    quieten()
    began = time.monotonic()
    findings = list(examined(script, settings))
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        told = (
            Text(finding.said) if not finding.step else Text.assemble(finding.said, "\n", ("→ " + finding.step, "bold"))
        )
        table.add_row(Text(f"  {finding.state}", style=COLOURS[finding.state]), finding.name, told)
    console.print(table)
    stopping = [finding for finding in findings if finding.state == "stops"]
    notes = sum(finding.state == "note" for finding in findings)
    seconds = f"checked in {time.monotonic() - began:.1f} s"
    if stopping:
        names = ", ".join(dict.fromkeys(finding.name for finding in stopping))
        console.print(f"[red]not ready[/] ({seconds}): {names} would stop the run; next: what stands at the arrows")
    else:
        words = f", {notes} note{'s' * (notes > 1)}" if notes else ""
        step = command(script, "-m", "experiment=smoke") if script == "evaluate" else command(script, "build=plan")
        console.print(f"[green]ready[/]{words} ({seconds}); next: {step}")
    return not stopping


def examined(script: str, settings: Settings) -> Iterator[Finding]:
    """Look at everything that a run rests on."""
    yield from _versions()
    yield from _extras()
    yield _processors()
    yield _memory()
    yield _device(settings)
    store, logs = Path(settings.paths.store), Path(settings.paths.logs)
    yield _disk("paths.store", store)
    yield _disk("paths.logs", logs)
    yield _lock(store)
    network = _hub()
    yield network
    yield from _weights(script, settings, online=network.state == "ok")
    if settings.logger and settings.logger.target.endswith("WandbLogger"):
        yield _wandb(settings)


# --- What is installed ------------------------------------------------------------------------------------------------


def _versions() -> Iterator[Finding]:
    python = f"sarsynth {__version__}, Python {platform.python_version()}, torch {torch.__version__}"
    unmet = [_unmet(line) for line in _required(None)]
    wrong = [line for line in unmet if line]
    if not wrong:
        yield Finding("versions", f"{python}; {len(unmet)} packages as required")
    for line in wrong:
        yield Finding("versions", line[0], "stops", f"pip install '{line[1]}'")


def _extras() -> Iterator[Finding]:
    there: list[str] = []
    absent: list[str] = []
    for extra in importlib.metadata.metadata("sarsynth").get_all("Provides-Extra") or []:
        (absent if any(_unmet(line) for line in _required(extra)) else there).append(extra)
    said = f"with {', '.join(there) or 'none'}; without {', '.join(absent) or 'none'}"
    yield Finding("extras", said + (f" ({install(absent[0])})" if absent else ""))


def _required(extra: str | None) -> list[Requirement]:
    """What the package needs, or what an extra adds to that."""
    lines = [Requirement(line) for line in importlib.metadata.requires("sarsynth") or []]
    always = [line for line in lines if not line.marker or line.marker.evaluate({"extra": ""})]
    return (
        always
        if extra is None
        else [line for line in lines if line not in always and line.marker and line.marker.evaluate({"extra": extra})]
    )


def _unmet(line: Requirement) -> tuple[str, str] | None:
    """Say what of a requirement is not met, and the requirement; None if all is well."""
    wanted = f"{line.name}{line.specifier}"
    try:
        found = importlib.metadata.version(line.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{line.name} is not installed", wanted
    fits = line.specifier.contains(found, prereleases=True)
    return None if fits else (f"{line.name} {found} is here, and {line.specifier} is needed", wanted)


# --- The machine ------------------------------------------------------------------------------------------------------


def _processors() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads, busy = torch.get_num_threads(), os.getloadavg()[0]
    said = f"{usable} cores, {threads} thread{'s' * (threads > 1)} of torch"
    if busy > usable:
        return Finding(
            "processors", f"{said}; {busy:.1f} are busy now", "note", "others compute here: it will be slower"
        )
    return Finding("processors", said)


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    total, free, limit = memory.total, memory.available, _limit()
    if limit and limit < total:
        total, free = limit, min(free, limit)
    said = f"{size(free)} of {size(total)} free"
    if free < LITTLE_MEMORY:
        step = "one job at a time: hydra/launcher=basic; train.micro_batch=8 and encode.batch_size=8 need less"
        return Finding("memory", said, "note", step)
    return Finding("memory", said)


def _limit() -> int | None:
    """Bytes that a container may fill; None where nothing is said."""
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(Path(file).read_text())
        except (OSError, ValueError):  # not there, or `max`
            continue
    return None


def _device(settings: Settings) -> Finding:
    trainer = settings.trainer
    try:
        compute = Compute.of({**trainer.model_dump(), "num_nodes": 1})
    except UserError as error:
        return Finding("device", one_line(error), "stops", _without_card())
    where, cards = compute.device.type, torch.cuda.device_count()
    if where == "cuda":
        free, total = torch.cuda.mem_get_info(compute.device)
        name = torch.cuda.get_device_name(compute.device)
        more = f", {cards} of them" if cards > 1 else ""
        return Finding(
            "device", f"{name}{more}, {size(free)} of {size(total)} free; precision {compute.precision.name}"
        )
    if cards:
        step = "trainer=gpu" if cards == 1 else "trainer=gpu, or trainer=ddp for all of them"
        return Finding("device", f"{where}; {torch.cuda.get_device_name()} is here and not used", "note", step)
    if shutil.which("nvidia-smi") and not torch.version.cuda:
        said = f"{where}; a driver of NVIDIA's is here, and torch {torch.__version__} was built without CUDA"
        return Finding("device", said, "note", "install torch for CUDA, then trainer=gpu")
    slow = settings.base.name != "sd-nano"
    if slow:
        step = "trainer=gpu on a machine with a card; build=plan tells how long it takes here"
        return Finding("device", f"{where}: base={settings.base.name} takes days on it", "note", step)
    return Finding("device", f"{where}; no GPU, which base=sd-nano does without")


def _without_card() -> str:
    if shutil.which("nvidia-smi") and not torch.version.cuda:
        return "install torch for CUDA: a driver is here"
    return "trainer=cpu, or another machine"


def _disk(key: str, folder: Path) -> Finding:
    there = _existing(folder)
    free, said = shutil.disk_usage(there).free, f"{key}={folder}"
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding("disk", f"{said}: cannot be written", "stops", f"choose another: {key}=FOLDER")
    said += f": {size(free)} free on {_file_system(there)}"
    if free < LITTLE_DISK:
        return Finding(
            "disk", said, "note", f"make room, or {key}=FOLDER elsewhere; build=plan tells what a study takes"
        )
    return Finding("disk", said)


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


def _file_system(folder: Path) -> str:
    """Name the kind of file system that a folder lies on."""
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    return next((mounts[place] for place in (folder.resolve(), *folder.resolve().parents) if place in mounts), "a disk")


def _lock(store: Path) -> Finding:
    """Try whether one process keeps another out, where several share the store."""
    step = "give paths.store a file system with locks (docs/clusters.md), or run one job at a time"
    try:
        with TemporaryDirectory(dir=_existing(store)) as folder:
            file = Path(folder, "lock")
            with FileLock(file), suppress(Timeout), FileLock(file).acquire(timeout=0):
                return Finding("lock", f"{store}: a lock that is held can be taken again", "stops", step)
    except (OSError, NotImplementedError) as error:
        return Finding("lock", f"{store}: no file can be locked ({one_line(error)})", "stops", step)
    return Finding("lock", "processes that share the store keep out of each other's way")


# --- What is fetched --------------------------------------------------------------------------------------------------


def _hub() -> Finding:
    if constants.is_offline_mode():
        return Finding("hub", "offline, as HF_HUB_OFFLINE says", "note", "weights that are not here cannot be fetched")
    reached = _reached(constants.ENDPOINT)
    if reached is None:
        return Finding("hub", f"{constants.ENDPOINT} answers")
    step = "needed only for weights that are not here; HF_HUB_OFFLINE=1 keeps libraries from trying"
    return Finding("hub", f"{constants.ENDPOINT} cannot be reached ({reached})", "note", step)


def _reached(url: str) -> str | None:
    """Why nothing answers at an address; None if something does."""
    try:
        with urlopen(Request(url, method="HEAD"), timeout=LONGEST):
            return None
    except HTTPError:  # an answer too
        return None
    except OSError as error:
        return one_line(getattr(error, "reason", error))


def _weights(script: str, settings: Settings, online: bool) -> Iterator[Finding]:
    base, classifier = settings.base, settings.classifier
    yield _found(f"base={base.name}", lambda: base_files.SETTING.find(base.path, ask=False), online, base_files.SETTING)
    if settings.contours.wanted:
        setting = controlnet_files.SETTING
        yield _found("ControlNet", lambda: setting.find(base.controlnet, ask=False), online, setting)
    if classifier.pretrained and trains_classifier(settings, script):
        key = f"classifier.pretrained={classifier.pretrained}"
        yield _found(key, lambda: pretrained.find(classifier.network, classifier.pretrained, fetch=False), online)


def _found(what: str, find: Callable[[], object], online: bool, setting: ModelSetting | None = None) -> Finding:
    """Say whether weights are here, or what fetching them takes."""
    try:
        where = find()
        return Finding("weights", f"{what}: {where if isinstance(where, Path) else 'here'}")
    except NotFetchedError as error:
        said = f"{what}: {error.source} is not here yet"
        said += f", {size(error.size_bytes)} to fetch" if error.size_bytes else ""
        if online:
            return Finding("weights", said, "note", "the first run fetches it, once")
        step = "classifier.pretrained=FILE, fetched where there is a network"
        if setting:
            step = f"where there is a network: {hub.command(error.source, setting.layout)}; then {setting.key}=FOLDER"
        return Finding("weights", said, "stops", step)
    except UserError as error:
        return Finding("weights", one_line(error), "stops", "mend it as that says")


def _wandb(settings: Settings) -> Finding:
    assert settings.logger is not None
    offline = settings.logger.options.get("offline") or os.environ.get("WANDB_MODE", "online") != "online"
    if offline:
        return Finding("W&B", "offline: runs are kept here, for `wandb sync`")
    try:
        reach_wandb()
    except UserError as error:
        return Finding("W&B", one_line(error), "stops", "logger.offline=true")
    if os.environ.get("WANDB_API_KEY") or wandb.api.api_key:
        return Finding("W&B", "the server answers, and a key is here")
    return Finding("W&B", "the server answers, and no key is here", "stops", "wandb login, or logger.offline=true")
