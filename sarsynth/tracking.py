"""Where the scalars, pictures and tables of a run go: a Lightning logger that can never fail the run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from sarsynth.console import console


class Tracker:
    """One tracker a job; each stage logs under its own prefix.

    Args:
        make: Builds the logger when the first thing is logged; None logs nothing.
    """

    def __init__(self, make: Callable[[], Logger] | None) -> None:
        self._make, self._broken = make, make is None
        self._logger: Logger | None = None

    def attempt(self, action: Callable[[Logger], Any]) -> Any:
        """Do something with the logger; the first failure is reported, and ends logging for this run."""
        if self._broken:
            return None
        try:
            if self._logger is None:
                assert self._make is not None
                self._logger = self._make()
            return action(self._logger)
        except Exception as error:  # whatever a tracker dies of, the run goes on
            self._broken = True
            console.print(f"[yellow]logging stopped:[/] {type(error).__name__}: {error}; the run goes on without it")
            return None

    def stage(self, name: str) -> "StageLogger":
        """Return a Lightning logger that puts `name/` before each metric."""
        return StageLogger(self, name)

    def config(self, settings: Mapping[str, Any]) -> None:
        """Record the composed configuration."""
        self.attempt(lambda logger: logger.log_hyperparams(dict(settings)))

    def picture(self, name: str, file: Path) -> None:
        """Show a picture, where the tracker has a place for pictures."""
        self.attempt(lambda logger: isinstance(logger, WandbLogger) and logger.log_image(name, [str(file)]))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Show a table, where the tracker has a place for tables."""
        self.attempt(
            lambda logger: (
                isinstance(logger, WandbLogger) and logger.log_table(name, list(columns), [list(r) for r in rows])
            )
        )

    def scalars(self, values: Mapping[str, float]) -> None:
        """Record final figures."""
        self.attempt(lambda logger: logger.log_metrics(dict(values)))

    def finish(self) -> None:
        """Close the run, so that the next job of a sweep begins its own."""

        def close(logger: Logger) -> None:
            logger.save()
            logger.finalize("success")
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()

        if self._logger is not None:
            self.attempt(close)


class StageLogger(Logger):
    """The logger that one training loop sees."""

    def __init__(self, tracker: Tracker, stage: str) -> None:
        super().__init__()
        self._tracker, self._stage = tracker, stage

    @property
    def name(self) -> str:
        """The stage."""
        return self._stage

    @property
    def version(self) -> str:
        """Runs are told apart by their folders."""
        return ""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log scalars under the stage's prefix."""
        named = {f"{self._stage}/{key}": value for key, value in metrics.items() if key != "epoch"}
        self._tracker.attempt(lambda logger: logger.log_metrics(named, step))

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: the configuration is recorded once a job."""
