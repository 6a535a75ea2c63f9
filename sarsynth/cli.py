"""The command line: compose the configuration, refuse what is wrong before anything heavy is imported, run.

`train.py`, `generate.py` and `evaluate.py` are this module with three names. A sweep (`-m`) is checked job by job
before its first job starts; where only a plan is wanted, it is made of all jobs here, and none starts. What a user can
mend is one line on stderr and exit code 1; a defect keeps its traceback. A job of a sweep that fails leaves its reason
in its folder, and the others go on (`sarsynth.commands.summary` sums them up).
"""

import importlib
import logging
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.text import Text

from sarsynth.config.checks import check
from sarsynth.config.composition import CONF, check_jobs
from sarsynth.config.hydra_internals import parse_arguments
from sarsynth.console import tag_lines
from sarsynth.errors import ERROR_FILE, UserError, one_line
from sarsynth.processes import rank

LOG = logging.getLogger(__name__)


def main(script: str) -> None:
    """Run `train`, `generate` or `evaluate` with the overrides of the command line, and exit."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises errors instead of printing them
    try:
        jobs = check_jobs(script, parse_arguments())
        if any(settings.build == "plan" and settings.report is None for settings, _ in jobs):
            importlib.import_module("sarsynth.commands.planning").run(script, jobs)
            return
        if len(jobs) > 1 and all(settings.pack for settings, _ in jobs):
            importlib.import_module("sarsynth.commands.packing").run(jobs)
        with TemporaryDirectory() as scratch:
            if rank():  # of processes that torchrun or srun started, one keeps the record
                sys.argv += [f"hydra.run.dir={scratch}", f"hydra.sweep.dir={scratch}", "hydra.output_subdir=null"]
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=script)(job)()
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def job(config: DictConfig) -> None:
    """Run one composed configuration; Hydra calls this, in a sweep once a job."""
    record = HydraConfig.get()
    folder, script = Path(record.runtime.output_dir), str(record.job.config_name)
    if record.mode != RunMode.MULTIRUN:
        try:
            _run(script, config, folder)
        except UserError as error:
            LOG.error("%s", error)
            _fail(str(error))  # here, because Hydra would put a line of its own before an exception
        return
    if record.runtime.choices["hydra/launcher"] != "basic":
        tag_lines(f"#{record.job.num} ")
    (folder / ERROR_FILE).unlink(missing_ok=True)
    try:
        _run(script, config, folder)
    except UserError as error:
        message = one_line(error)
        LOG.error("%s", message)
    except Exception as error:
        LOG.exception("a defect")
        message = f"{type(error).__name__}: {one_line(error)}; traceback in {record.job.name}.log"
    else:
        return
    (folder / ERROR_FILE).write_text(f"{message}\n", encoding="utf-8", errors="backslashreplace")
    _print_error(f"#{record.job.num}: {message}")


def _run(script: str, config: DictConfig, folder: Path) -> None:
    settings = check(config)
    if settings.report:
        importlib.import_module("sarsynth.report.writing").run(Path(settings.report), Path(settings.paths.store))
        return
    record = HydraConfig.get()
    log = cast(dict[str, Any], OmegaConf.to_container(record.job_logging, resolve=True))
    launch = importlib.import_module("sarsynth.commands.launch")
    launch.run(script, settings, folder, list(record.overrides.task), log)


def _fail(message: str) -> NoReturn:
    _print_error(message)
    sys.exit(1)


def _print_error(message: str) -> None:
    Console(stderr=True, soft_wrap=True).print(Text.assemble(("error: ", "red"), message))
