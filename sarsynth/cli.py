"""The command line: compose the configuration, refuse what is wrong before anything heavy is imported, run.

`train.py`, `generate.py` and `evaluate.py`, or `sarsynth-train` and so on, are this module with three names. A sweep
(`-m`) is checked job by job before its first job starts; where only a plan is wanted, it is made of all jobs here, and
none starts. What a user can mend is one line on stderr and exit code 1; a defect keeps its traceback. A job of a sweep
that fails leaves its reason in its folder, and the others go on (`sarsynth.commands.summary` sums them up).
"""

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from multiprocessing import current_process
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.text import Text

from sarsynth.config.checks import check
from sarsynth.config.composition import CONF, check_jobs
from sarsynth.config.hydra_internals import parse_arguments
from sarsynth.config.schema import Settings
from sarsynth.console import NAMES, SCREEN, State, console, is_shared, print_error, share_screen, tag_lines
from sarsynth.errors import ERROR_FILE, UserError, one_line
from sarsynth.processes import count, rank
from sarsynth.program import remember

LOG = logging.getLogger(__name__)
Jobs = Sequence[tuple[Settings, Sequence[str]]]  # settings and overrides of each job of a command line


def train() -> None:
    """Be `train.py`, or `sarsynth-train`."""
    main("train")


def generate() -> None:
    """Be `generate.py`, or `sarsynth-generate`."""
    main("generate")


def evaluate() -> None:
    """Be `evaluate.py`, or `sarsynth-evaluate`."""
    main("evaluate")


def main(script: str) -> None:
    """Run `train`, `generate` or `evaluate` with the overrides of the command line, and exit."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises errors instead of printing them
    logging.raiseExceptions = False  # a log that cannot be written, on a full disk, is no traceback a line
    jobs: Jobs = ()
    begun = False
    try:
        arguments = parse_arguments()
        remember(sys.argv, script, arguments.config_dir)
        if arguments.help:
            importlib.import_module("sarsynth.commands.usage").show(script, arguments.overrides, arguments.config_dir)
            return
        jobs = check_jobs(script, arguments)
        if any(settings.doctor for settings, _ in jobs):
            sys.exit(not importlib.import_module("sarsynth.commands.doctor").run(script, jobs[0][0]))
        if any(settings.build == "plan" and settings.report is None for settings, _ in jobs):
            importlib.import_module("sarsynth.commands.planning").run(script, jobs)
            return
        if len(jobs) > 1 and all(settings.pack for settings, _ in jobs):
            importlib.import_module("sarsynth.commands.packing").run(jobs)
        with TemporaryDirectory() as scratch:
            if rank():  # of processes that torchrun or srun started, one keeps the record
                sys.argv += [f"hydra.run.dir={scratch}", f"hydra.sweep.dir={scratch}", "hydra.output_subdir=null"]

            def task(config: DictConfig) -> None:  # pickled with all jobs, of which the first one makes a plan
                nonlocal begun
                begun = HydraConfig.get().mode != RunMode.MULTIRUN
                job(config, jobs)

            importlib.import_module("sarsynth.commands.summary").Summary.jobs = jobs
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=script)(task)()
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; run again to go on", markup=False)
        sys.exit(130)
    except (OSError, ValueError, HydraException, OmegaConfBaseException) as error:
        if begun:  # a defect of the job
            raise
        _fail(_of_hydra(error, jobs))


def _of_hydra(error: Exception, jobs: Jobs) -> str:
    """Say what Hydra fails of before or between jobs: their folders, mostly."""
    if not isinstance(error, OSError) or not jobs:
        return one_line(error)
    settings, overrides = jobs[0]
    own = [line for line in overrides if line.startswith(("hydra.run.dir=", "hydra.sweep.dir="))]
    where = f": {error.filename}" if error.filename else ""
    return f"{next(iter(own), f'paths.logs={settings.paths.logs}')}: {error.strerror}{where}; choose another folder"


def job(config: DictConfig, jobs: Jobs) -> None:
    """Run one composed configuration, one of these jobs; Hydra calls this, in a sweep once a job."""
    record = HydraConfig.get()
    folder, script = Path(record.runtime.output_dir), str(record.job.config_name)
    if record.mode != RunMode.MULTIRUN:
        try:
            _run(script, config, folder)
        except UserError as error:
            LOG.error("%s", error)
            _fail(str(error))  # here, because Hydra would put a line of its own before an exception
        return
    screen, number = folder.parent / SCREEN, int(record.job.num)
    if (screen / NAMES).is_file():
        share_screen(screen, number)
    elif record.runtime.choices["hydra/launcher"] != "basic" and not _is_where_it_began(record):
        tag_lines(f"{config.method.name} #{number} ")
    (folder / ERROR_FILE).unlink(missing_ok=True)
    failed = _job_of_sweep(script, config, folder, jobs)
    if failed:
        (folder / ERROR_FILE).write_text(f"{failed}\n", encoding="utf-8", errors="backslashreplace")
        if is_shared():
            console.print(Text.assemble(("error: ", "red"), failed))
        else:
            print_error(f"#{number}: {failed}")
    if not rank():
        State(end="failed" if failed else "done").write()
    if not is_shared() and not rank():
        importlib.import_module("sarsynth.commands.screen").say_how_far(folder.parent, number + 1, len(jobs))


def _is_where_it_began(record: Any) -> bool:
    """Whether the process that would start a sweep's jobs runs this one itself, because nothing is missing."""
    return record.launcher._target_.endswith(".JoblibLauncher") and current_process().name == "MainProcess"


def _job_of_sweep(script: str, config: DictConfig, folder: Path, jobs: Jobs) -> str:
    """Run a job of a sweep; returns why it failed, nothing if it did not."""
    record = HydraConfig.get()
    try:
        if record.job.num == 0 and count() == 1:
            _foresee(script, jobs, folder.parent)
        _run(script, config, folder)
    except UserError as error:
        message = one_line(error)
        LOG.error("%s", message)
        return message
    except Exception as error:
        LOG.exception("a defect")
        return f"{type(error).__name__}: {one_line(error)}; traceback in {record.job.name}.log"
    return ""


def _foresee(script: str, jobs: Jobs, folder: Path) -> None:
    """Find out what there is to do for a whole sweep; that this fails takes no job with it."""
    try:
        importlib.import_module("sarsynth.commands.planning").tell_outlook(script, jobs, folder)
    except Exception:
        LOG.exception("no outlook on the sweep: a defect")


def _run(script: str, config: DictConfig, folder: Path) -> None:
    settings = check(config)
    if settings.report:
        named = [settings.report] if isinstance(settings.report, str) else settings.report
        folders = [Path(folder) for folder in named]
        importlib.import_module("sarsynth.report.writing").run(folders, Path(settings.paths.store), folder)
        return
    record = HydraConfig.get()
    log = cast(dict[str, Any], OmegaConf.to_container(record.job_logging, resolve=True))
    launch = importlib.import_module("sarsynth.commands.launch")
    launch.run(script, settings, folder, list(record.overrides.task), log)


def _fail(message: str) -> NoReturn:
    print_error(message)
    sys.exit(1)
