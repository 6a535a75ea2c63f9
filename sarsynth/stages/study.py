"""A study: one composed configuration at work, which every stage receives.

A stage is a file of this folder named by its verb. It asks other stages for what it reads, says what decides the
content of its artifact, and hands both with a builder to `Study.make`: what is missing is made, once.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import torch

from sarsynth import program
from sarsynth.config.schema import Settings
from sarsynth.console import console
from sarsynth.errors import NotFetchedError
from sarsynth.store.artifacts import UNKNOWN, Artifact, Request
from sarsynth.store.building import Store
from sarsynth.tracking import Tracker
from sarsynth.training.compute import Compute
from sarsynth.training.fitting import Fitting
from sarsynth.training.precision import Precision
from sarsynth.training.tasks import StepOptions

Args = ParamSpec("Args")
Value = TypeVar("Value")


class Study:
    """What stages share: settings, store, device and logger of one run, and what they have found out so far.

    A study stands at one of its cells: one generator seed and one sample seed, the first of each as long as nobody says
    otherwise. `at` gives the same study, with all that it knows, at another cell.

    Args:
        settings: The configuration.
        tracker: Where scalars and pictures of this run go.
        overrides: Those of the command line; commands that the study proposes repeat them.
    """

    def __init__(self, settings: Settings, tracker: Tracker, overrides: Sequence[str] = ()) -> None:
        self.settings, self.tracker, self.overrides = settings, tracker, overrides
        trainer, self.planning = settings.trainer.model_dump(), settings.build == "plan"
        self.compute = Compute.planned(trainer) if self.planning else Compute.of(trainer)
        self.store = Store(Path(settings.paths.store), settings.build, console.print)
        self.generator_seed, self.sample_seed = settings.generator_seeds[0], settings.sample_seeds[0]
        self.fetched: list[Artifact] = []  # what others made
        self.known: dict[Any, Any] = {}  # what functions under `once` returned
        self.leaks: dict[str, Any] = {}  # what data.allow_leak let pass, by the key of the set that it lies in
        self.dropped: dict[str, Any] = {}  # what data.leak=drop left out, by the same key
        self.crossing: dict[str, int] = {}  # near-duplicates across splits, of each set that is learnt from
        self.absent: dict[Artifact, NotFetchedError] = {}  # what a plan leaves on the hub

    def at(self, generator_seed: int, sample_seed: int) -> Self:
        """The same study at another cell."""
        cell = copy.copy(self)
        cell.generator_seed, cell.sample_seed = generator_seed, sample_seed
        return cell

    @property
    def generators(self) -> list[Self]:
        """The study at each generator seed, where the method has any: one alone of a method that trains nothing."""
        settings = self.settings
        seeds = settings.generator_seeds if settings.has_generator else settings.generator_seeds[:1]
        return [self.at(seed, self.sample_seed) for seed in seeds]

    @property
    def cells(self) -> list[Self]:
        """The study at each generator seed with each sample seed, crossed, as far as the method has them."""
        settings = self.settings
        seeds = settings.sample_seeds if settings.has_samples else settings.sample_seeds[:1]
        return [cell.at(cell.generator_seed, seed) for cell in self.generators for seed in seeds]

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.compute.device

    @property
    def precision(self) -> Precision:
        """In which precision networks compute."""
        return self.compute.precision

    @property
    def step_options(self) -> StepOptions:
        """How the steps of a training are computed."""
        train = self.settings.train
        return StepOptions(train.micro_batch, train.gradient_checkpointing, train.compile)

    def fitting(self, stage: str, *, alone: bool = False, precision: Precision | None = None) -> Fitting:
        """How a training loop of one stage runs, in all processes of the job or alone, and where its scalars go."""
        make_trainer = self.compute.make_trainer_alone if alone else self.compute.make_trainer
        if precision is not None:
            make_trainer = partial(make_trainer, precision=precision.name)
        return Fitting(make_trainer, self.tracker.stage(stage), self.step_options)

    def command(self, script: str, *keys: str) -> str:
        """What a person types to make a part of this very study, e.g. `command("train", "stage=ors")`."""
        replaced = {key.partition("=")[0] for key in keys} | {"stage", "build", "plan"}
        kept = [override for override in self.overrides if override.partition("=")[0] not in replaced]
        return program.command(script, *keys, *kept)

    def make(
        self,
        kind: str,
        label: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Artifact],
        builder: Callable[[Path], None],
        *,
        command: Sequence[str],
        version: int = 1,
        collective: bool = False,
        **about: Any,
    ) -> Artifact:
        """Return an artifact, building it first if the store does not have it.

        Args:
            kind: Of artifact.
            label: For people; not part of its fingerprint.
            settings: Everything that decides its content, inputs apart.
            inputs: The artifacts that it is made from.
            builder: Fills its folder.
            command: Script (`train`, ...) and keys that make it, as `command` takes them.
            version: Of the builder, raised whenever a change of its code changes what it makes.
            collective: All processes of the job build it together.
            about: What else a `Request` says.
        """
        request = Request(kind, label, settings, inputs, version=version, command=self.command(*command), **about)
        return self.store.make(request, builder, collective=collective)

    def fetch(self, kind: str, find: Callable[[bool], tuple[Path, str]]) -> Artifact:
        """Stand for what others made, by a hash of its files; a plan fetches nothing and notes what a run would.

        Args:
            kind: Of artifact.
            find: Gives its place and the hash; is told whether it may fetch it.
        """
        try:
            path, content = find(not self.planning)
        except NotFetchedError as error:
            return self.note_absent(kind, self.settings.base.name, error)
        artifact = Artifact(kind, self.settings.base.name, content[:16], path)
        self.fetched.append(artifact)
        return artifact

    def note_absent(self, kind: str, name: str, error: NotFetchedError) -> Artifact:
        """Stand for what a plan leaves where it is."""
        artifact = Artifact(kind, name, f"{UNKNOWN}{error.source}", Path(error.source))
        self.absent[artifact] = error
        return artifact


def once(function: Callable[Concatenate[Study, Args], Value]) -> Callable[Concatenate[Study, Args], Value]:
    """Call a function once for each study and arguments, which are hashable, and remember what it returned.

    What it returns is the same at every cell; `once_a_generator` and `once_a_cell` are for what is not.
    """
    return _remembering(function, lambda study: ())


def once_a_generator(function: Callable[Concatenate[Study, Args], Value]) -> Callable[Concatenate[Study, Args], Value]:
    """Like `once`, for what follows from the generator seed too."""
    return _remembering(function, lambda study: ("generator", study.generator_seed))


def once_a_cell(function: Callable[Concatenate[Study, Args], Value]) -> Callable[Concatenate[Study, Args], Value]:
    """Like `once`, for what follows from the generator seed and the sample seed too."""
    return _remembering(function, lambda study: ("cell", study.generator_seed, study.sample_seed))


def _remembering(
    function: Callable[Concatenate[Study, Args], Value], cell: Callable[[Study], tuple[Any, ...]]
) -> Callable[Concatenate[Study, Args], Value]:
    @wraps(function)
    def remembered(study: Study, *args: Args.args, **kwargs: Args.kwargs) -> Value:
        call = (function, args, *kwargs.items(), *cell(study))
        if call not in study.known:
            study.known[call] = function(study, *args, **kwargs)
        return study.known[call]

    return remembered


def first(study: Study, *topic: str) -> bool:
    """Whether nothing was said of a topic in this run before; from now on something is."""
    new = topic not in study.known
    study.known[topic] = True
    return new
