"""Before the first job of a sweep: a screen for jobs side by side. After the last: its report, and what failed.

Torch-free, as the process that starts the jobs is, unless it is the one that runs them.
"""

import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from sarsynth.commands.guarding import leaks_of
from sarsynth.commands.launchers import outlive_lost_jobs
from sarsynth.commands.reusing import stay_if_whole
from sarsynth.commands.screen import Screen
from sarsynth.config.hydra_internals import jobs_of_sweep, side_by_side, trust_checked_jobs
from sarsynth.config.schema import Settings
from sarsynth.console import SCREEN, console, print_error
from sarsynth.errors import UserError, one_line
from sarsynth.processes import rank

LOG = logging.getLogger(__name__)


class Summary(Callback):
    """Hydra's callback that shows a sweep and sums it up."""

    jobs: ClassVar[Sequence[tuple[Settings, Sequence[str]]]] = ()  # of the sweep, checked: Hydra hands on none

    def __init__(self) -> None:
        self.screen: Screen | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What its copies in jobs side by side know: not the screen, which stays with the process that started them."""
        return {"screen": None}

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Say what is known of the results beforehand; where jobs run side by side, open the screen they share."""
        if rank():
            return
        shutil.rmtree(Path(config.hydra.sweep.dir) / SCREEN, ignore_errors=True)  # of a sweep that was killed there
        say_notice(config)
        refuse_leaks(config, self.jobs)
        outlive_lost_jobs(config.hydra)
        stay_if_whole(config, self.jobs)
        trust_checked_jobs(config.hydra)
        if (at_once := side_by_side(config.hydra)) > 1:
            from sarsynth.report.jobs import differing, heading, parse

            jobs = [parse(overrides) for overrides in jobs_of_sweep(config.hydra, config.hydra.overrides.task)]
            names = [heading(job.get("method", ""), differing(job, jobs)) for job in jobs]
            self.screen = Screen(Path(config.hydra.sweep.dir), names, min(at_once, len(names)))
            self.screen.open()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the report and pictures, print the tables; name what failed and exit with 1 if anything did."""
        if rank():
            return
        if self.screen:
            self.screen.close()
        folder = Path(config.hydra.sweep.dir)
        shutil.rmtree(folder / SCREEN, ignore_errors=True)
        from sarsynth.report.closing import sum_up  # it draws and fits: seconds to import, and every run imports this

        try:
            complete = sum_up(folder, Path(config.paths.store), config.notice)
        except (UserError, OSError) as error:
            print_error(one_line(error))
            complete = False
        except Exception as error:
            LOG.exception("no summary: a defect")
            print_error(f"no summary of {folder}: a defect: {type(error).__name__}: {one_line(error)}")
            complete = False
        track(config, folder)
        if not complete:
            sys.exit(1)  # Hydra, which has nothing more to do, turns exceptions into warnings


def track(config: DictConfig, folder: Path) -> None:
    """Hand the sweep as a whole to its logger; that this fails takes nothing from what is on disk."""
    if not config.get("logger") or not str(config.logger.get("_target_")).endswith("WandbLogger"):
        return
    from sarsynth.commands.sweep_run import track_sweep  # W&B and Lightning, which take seconds to import

    try:
        track_sweep(config, folder)
    except Exception as error:  # whatever a tracker dies of
        LOG.exception("no run of the sweep: a defect")
        console.print(f"[yellow]logging stopped:[/] {type(error).__name__}: {escape(one_line(error))}")


def refuse_leaks(config: DictConfig, jobs: Sequence[tuple[Settings, Sequence[str]]]) -> None:
    """Stop before the first job, if jobs would learn from held-out images: each would stop for it by itself."""
    if config.get("report") or config.build == "plan" or config.data.allow_leak or config.data.leak == "drop":
        return
    told = leaks_of(jobs)
    for message, numbers in told.items():
        text = Text.assemble(("error: ", "red"), f"{message} ({', '.join(f'#{number}' for number in numbers)})")
        Console(stderr=True, soft_wrap=True).print(text)
    if told:
        sys.exit(1)  # as at the end of a sweep


def say_notice(config: DictConfig) -> None:
    """Say what readers have to know of the figures."""
    if config.notice:
        console.print(f"[bold yellow]{config.notice}")
