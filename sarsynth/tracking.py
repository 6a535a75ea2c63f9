"""Where the scalars, pictures and tables of a run go: a Lightning logger that can never fail the run."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import torch
import wandb
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger, WandbLogger
from PIL import Image
from rich.markup import escape
from sklearn.metrics import precision_recall_curve

from sarsynth.console import console
from sarsynth.errors import UserError, one_line

POINTS = 200  # of a curve
NAME = 128  # characters of an artifact's name that W&B takes
PREVIEWS = "previews"  # folder of a run; its metadata.jsonl is that of a Hugging Face imagefolder
REACH = 5.0  # seconds that a server has to answer


class Tracker:
    """One tracker a job; each stage logs under its own prefix.

    Args:
        make: Builds the logger when the first thing is logged; None logs nothing.
        folder: Of the run, where pictures of trainings are kept as files, whatever the logger; None keeps none.
    """

    def __init__(self, make: Callable[[], Logger] | None, folder: Path | None = None) -> None:
        self._make, self._broken, self._folder = make, make is None, folder
        self._logger: Logger | None = None
        self._axes: set[str] = set()  # metrics of W&B that have their stage's steps as axis

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
            why = f"{type(error).__name__}: {escape(str(error))}"
            console.print(f"[yellow]logging stopped:[/] {why}; the run goes on without it")
            return None

    def stage(self, name: str) -> "StageLogger":
        """Return a Lightning logger that puts `name/` before each metric."""
        return StageLogger(self, name)

    def config(self, settings: Mapping[str, Any]) -> None:
        """Record the composed configuration."""
        self.attempt(lambda logger: logger.log_hyperparams(dict(settings)))

    def _show(self, action: Callable[[WandbLogger], Any]) -> None:
        """Do what only W&B can: other loggers have no place for pictures, tables and artifacts, and are passed over."""
        self.attempt(lambda logger: action(logger) if isinstance(logger, WandbLogger) else None)

    def step(self, stage: str, values: Mapping[str, Any], step: int | None) -> None:
        """Log values of a stage's step, by their names after the stage's.

        In W&B each stage has an axis of its own, `STAGE/step`: trainings of one run follow each other, and each begins
        at step 0. Axes are said metric by metric, since Lightning says one for all, and a name goes before a pattern.
        """

        def log(logger: Logger) -> None:
            named = {f"{stage}/{name}": value for name, value in values.items()}
            if not isinstance(logger, WandbLogger) or step is None:
                logger.log_metrics(named, step)
                return
            axis, run = f"{stage}/step", logger.experiment
            if axis not in self._axes:
                run.define_metric(axis, hidden=True)
            for name in sorted(named.keys() - self._axes):
                run.define_metric(name, step_metric=axis)
            self._axes |= {axis, *named}
            run.log({**named, axis: step})

        self.attempt(log)

    def picture(self, name: str, file: Path) -> None:
        """Show a picture."""
        self._show(lambda logger: logger.log_image(name, [str(file)]))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Show a table."""
        self._show(lambda logger: logger.log_table(name, list(columns), [list(row) for row in rows]))

    def page(self, name: str, file: Path) -> None:
        """Show a page of HTML as it is."""
        self._show(lambda logger: logger.experiment.log({name: wandb.Html(str(file), inject=False)}))

    def predictions(
        self, name: str, labels: np.ndarray, predicted: np.ndarray, shares: np.ndarray, classes: Sequence[str]
    ) -> None:
        """Show a confusion matrix and the precision-recall curve of each class.

        Args:
            name: Of the section that shows them, after the tables that stand in it.
            labels: True labels, int (N,).
            predicted: Predicted ones, int (N,).
            shares: Probability of each class, (N, classes).
            classes: Their names.
        """

        def show(logger: WandbLogger) -> None:
            curves = [
                [of_class, *point]
                for label, of_class in enumerate(classes)
                if (labels == label).any()
                for point in recall_and_precision(labels == label, shares[:, label])
            ]
            confusion = wandb.plot.confusion_matrix(
                y_true=labels.tolist(), preds=predicted.tolist(), class_names=list(classes)
            )
            precision_recall = wandb.plot_table(  # as wandb.plot.pr_curve draws them, which needs pandas
                "wandb/area-under-curve/v0",
                wandb.Table(columns=["class", "recall", "precision"], data=curves),
                {"x": "recall", "y": "precision", "class": "class"},
                {"title": "Precision and recall", "x-axis-title": "Recall", "y-axis-title": "Precision"},
            )
            logger.experiment.log({f"{name}/3_confusion": confusion, f"{name}/4_precision_recall": precision_recall})

        self._show(show)

    def drawn(self, stage: str, draw: Callable[[], Mapping[str, Image.Image]], step: int) -> None:
        """Draw pictures for a training's step, by their captions; keep them as files, and show each with its own."""

        def show(logger: Logger) -> None:
            made = draw()
            if self._folder:
                _keep(self._folder / PREVIEWS, f"{stage}/samples-{step:06d}", made)
            if isinstance(logger, WandbLogger):
                self.step(stage, {"samples": [wandb.Image(one, caption=text) for text, one in made.items()]}, step)

        self.attempt(show)

    def artifact(self, name: str, kind: str, about: Mapping[str, Any], files: Sequence[Path], *, made: bool) -> None:
        """Record that this run made an artifact, or used one: what W&B draws its lineage from.

        Args:
            name: Of the artifact, with its fingerprint.
            kind: Of artifact.
            about: What is known of it; its inputs say what it was made from.
            files: Files, and folders with all that lies in them, that W&B is to have of it; they stay as they are.
            made: Whether this run made it.
        """

        def record(logger: WandbLogger) -> None:
            # W&B takes a few characters alone, and a label may be the name of a class; its end is the fingerprint.
            recorded = wandb.Artifact(re.sub(r"[^a-zA-Z0-9_.-]", "_", name)[-NAME:], kind, metadata=dict(about))
            for path in files:
                (recorded.add_dir if path.is_dir() else recorded.add_file)(str(path), policy="immutable")
            run = logger.experiment
            if made:
                run.log_artifact(recorded)
            elif run.offline:  # where `use_artifact` refuses; this is what it does, and `wandb sync` draws the arrow
                run._log_artifact(recorded, is_user_created=True, use_after_commit=True)
            else:
                run.use_artifact(recorded)

        self._show(record)

    def scalars(self, values: Mapping[str, float]) -> None:
        """Record final figures: in W&B as the run's summary, which its table of runs sorts by, elsewhere as metrics."""

        def record(logger: Logger) -> None:
            if isinstance(logger, WandbLogger):
                logger.experiment.summary.update(dict(values))
            else:
                logger.log_metrics(dict(values))

        self.attempt(record)

    def finish(self, status: Literal["success", "failed"]) -> None:
        """Close the run, so that the next job of a sweep begins its own; what the tracker shows is how it ended."""

        def close(logger: Logger) -> None:
            logger.save()
            logger.finalize(status)

        if self._logger is not None:
            self.attempt(close)
            self._show(lambda logger: logger.experiment.finish(exit_code=0 if status == "success" else 1))


def _keep(folder: Path, name: str, made: Mapping[str, Image.Image]) -> None:
    """Write pictures, and a line with its caption for each."""
    files = {f"{name}-{index}.png": caption for index, caption in enumerate(made)}
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    for file, picture in zip(files, made.values(), strict=True):
        picture.save(folder / file)
    with (folder / "metadata.jsonl").open("a", encoding="utf-8", errors="backslashreplace") as lines:
        for file, caption in files.items():
            lines.write(json.dumps({"file_name": file, "text": caption}, ensure_ascii=False) + "\n")


def reach_wandb() -> None:
    """Find out in seconds whether W&B's server answers, at all and through any proxy; its own client takes minutes.

    Raises:
        UserError: It does not.
    """
    url = wandb.setup().settings.base_url
    wandb.teardown()  # what it read stays for the process, so that a later logger.offline=true would not count
    try:
        with urlopen(url, timeout=REACH):
            return
    except HTTPError:  # an answer too
        return
    except OSError as error:
        raise UserError(
            f"{url} cannot be reached ({one_line(error)}); logger.offline=true keeps the run here, for `wandb sync`"
        ) from error


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
        self._tracker.step(self._stage, {key: value for key, value in metrics.items() if key != "epoch"}, step)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: the configuration is recorded once a job."""


class Previews(Callback):
    """Show, now and then, what a training makes; the training takes no notice.

    Args:
        every: Optimiser steps between pictures.
        show: Draws and shows one of a step.
    """

    def __init__(self, every: int, show: Callable[[int], None]) -> None:
        self.every, self.show = every, show

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Draw and show when it is time, on rank 0, from random numbers that the training does not see."""
        if trainer.is_global_zero and trainer.global_step % self.every == 0:
            with torch.random.fork_rng():
                self.show(trainer.global_step)


def recall_and_precision(right: np.ndarray, shares: np.ndarray) -> list[list[float]]:
    """Pairs of recall and precision over all thresholds, thinned to `POINTS`.

    Args:
        right: Whether an image is of the class, bool (N,).
        shares: Its probability of the class, (N,).
    """
    precision, recall, _ = precision_recall_curve(right, shares)
    rows = np.linspace(0, len(recall) - 1, min(POINTS, len(recall))).round().astype(int)
    return np.stack([recall[rows], precision[rows]], axis=1).tolist()
