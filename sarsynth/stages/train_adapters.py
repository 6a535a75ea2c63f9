"""The tuned parts of a study: what decides each of them, and the runs that train them, together where they can.

Adapters that train on the same latents, on top of the same frozen adapter and in equal batches share a run
(see routing.py): the prototypes of a method, its class groups, or with `pack=true` the cells of a sweep.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only

from sarsynth import hashes, processes
from sarsynth.config.schema import AdapterTraining
from sarsynth.data.datamodules import SeededDataModule, Stream, step_seed
from sarsynth.diffusion import adapters, prototypes
from sarsynth.diffusion.adapters import AdapterSpec
from sarsynth.diffusion.base import Base, place_network
from sarsynth.diffusion.denoising import Denoiser, TrainableGroup
from sarsynth.diffusion.latents import open_encoded
from sarsynth.diffusion.routing import Routing, routed
from sarsynth.diffusion.samples import DenoisingSamples
from sarsynth.errors import UserError
from sarsynth.stages import work
from sarsynth.stages.preview import previews
from sarsynth.store.artifacts import CARD, CHECKPOINTS, UNKNOWN, Artifact, Request
from sarsynth.training.fitting import MovingAverage
from sarsynth.training.memory import free_memory
from sarsynth.training.microbatches import needs

if TYPE_CHECKING:
    from sarsynth.stages.study import Role, Study


@dataclass(frozen=True, eq=False)
class Training:
    """One adapter to be trained, and everything that decides it.

    Attributes:
        study: Whose it is.
        name: Of the adapter, as the stack knows it.
        role: Which images it trains on.
        spec: What it looks like.
        recipe: How it trains; `steps` and `warmup` are those of this adapter.
        rows: Which of the images.
        encoded: Those images' `latents` and `texts`.
        below: The frozen adapter that it trains on top of, None for the base alone.
        scale_below: At which scale.
        seed: Of its weights, sample order and noise.
        request: What the store makes of it.
    """

    study: "Study"
    name: str
    role: "Role"
    spec: AdapterSpec
    recipe: AdapterTraining
    steps: int
    warmup: int
    rows: Sequence[int]
    encoded: Mapping[str, Artifact]
    below: Artifact | None
    scale_below: float | None
    seed: int
    request: Request

    @property
    def company(self) -> tuple[Any, ...]:
        """What adapters must have in common to train in one run."""
        recipe = self.recipe
        return *self.encoded.values(), self.below, self.scale_below, recipe.batch_size, recipe.max_grad_norm


def ors_training(study: "Study") -> Training:
    """The view: an adapter on optical remote-sensing images."""
    recipe = study.settings.train.ors
    rows = range(len(study.training_records("ors")))
    return _training(study, "ors", "ors", recipe, recipe.rank, recipe.max_steps, rows, {}, whole=True)


def sar_trainings(study: "Study") -> list[Training]:
    """The modality: the method's SAR adapters, one for each part of its partition that holds images.

    The parts share the rank equally, and the budget of samples in proportion to their images, so that every method has
    as many of both as the others.

    Raises:
        UserError: There is less rank, or there are fewer steps, than parts.
    """
    settings, method = study.settings, study.settings.method
    assert method.rank is not None
    recipe = settings.train.sar
    partition, inputs = study.partition()
    sizes = partition.counts.sum(axis=0)
    parts = np.flatnonzero(sizes)
    for key, total in (("method.rank", method.rank), ("train.sar.max_steps", recipe.max_steps)):
        if total < len(parts):
            raise UserError(f"{key}={total} is shared by {len(parts)} adapters; raise it to one each at least")
    ranks = prototypes.apportion(method.rank, np.ones(len(parts)))
    steps = prototypes.apportion(recipe.max_steps, sizes[parts])
    if method.below and settings.stage2_on == "ors":
        inputs = inputs | {"ors": study.ors_adapter()}
    return [
        _training(
            study,
            partition.names[part],
            "sar",
            recipe,
            int(rank),
            int(budget),
            np.flatnonzero(partition.assignments == part).tolist(),
            inputs,
            whole=partition.k == 1,
            together=len(parts),
        )
        for part, rank, budget in zip(parts, ranks, steps, strict=True)
    ]


def _training(
    study: "Study",
    name: str,
    role: "Role",
    recipe: AdapterTraining,
    rank: int,
    steps: int,
    rows: Sequence[int],
    inputs: Mapping[str, Artifact],
    *,
    whole: bool,
    together: int = 1,
) -> Training:
    settings = study.settings
    spec = AdapterSpec(rank, settings.adapter.target_modules)
    encoded, records = study.encoded(role), study.training_records(role)
    below = inputs.get("ors")
    scale_below = settings.train.sar.scale_below if below else None
    warmup = recipe.warmup(steps, whole=whole)
    divided = [made for name, made in inputs.items() if name == "partition"]
    rough = not all(made.complete for made in divided)
    request = Request(
        "adapter",
        name,
        {
            "rank": rank,
            "target_modules": spec.target_modules,
            "recipe": recipe.model_dump(exclude={"rank", "checkpoint_every", "warmup_share", "scale_below"})
            | {"max_steps": steps, "warmup_steps": warmup},
            "rows": None if whole else list(rows),
            "scale_below": scale_below,
            "seed": settings.seed,
        },
        {"base": study.base_artifact, **encoded, **inputs},
        version=1,
        command=study.command("train.py", f"stage={role}"),
        precision=study.precision.name,
        samples=study.samples(role, [records[row] for row in rows]),
        work=work.adapter(study, spec, recipe, steps, together=together, rough=rough),
        follows=divided,
    )
    return Training(
        study, name, role, spec, recipe, steps, warmup, rows, encoded, below, scale_below, settings.seed, request
    )


def train(trainings: Iterable[Training]) -> dict[str, Artifact]:
    """Make adapters, those that are missing in as few runs as possible; by name."""
    runs: dict[tuple[Any, ...], list[Training]] = {}
    for training in trainings:
        runs.setdefault(training.company, []).append(training)
    made: dict[str, Artifact] = {}
    for run in runs.values():
        artifacts = run[0].study.store.make_all(
            [training.request for training in run],
            lambda folders, run=run: _fit([one for one in run if one.request in folders], folders),  # type: ignore[misc]
            collective=True,
        )
        made |= {training.name: artifacts[training.request] for training in run}
    return made


def _fit(run: Sequence[Training], folders: Mapping[Request, Path]) -> None:
    """Train adapters that keep company, in as few runs as the memory allows."""
    # Of several runs that one after the other made, a killed job finds what those before it have saved.
    left = [one for one in run if not (folders[one.request] / adapters.WEIGHTS).exists()]
    if left:
        for part in np.array_split(np.arange(len(left)), math.ceil(len(left) / _at_once(left))):
            _fit_together([left[index] for index in part], folders)


def _at_once(run: Sequence[Training]) -> int:
    """How many of some adapters may train in one run: one sample of each has to go through the network at once."""
    study, largest = run[0].study, max(run, key=lambda one: one.spec.rank)
    options = study.step_options
    if options.micro_batch != "auto":
        return options.micro_batch
    if len(run) == 1:
        return 1
    begun = adapters.fresh(study.base.unet, largest.spec, largest.seed)
    with routed(study.base.unet, [begun]) as routing:
        need = needs(_task([largest], routing), _data([largest]), options, study.device, study.precision.name)
    free = free_memory(study.device, study.compute.processes // study.settings.trainer.num_nodes)
    return max(1, processes.least(need.with_each(adapters.parameters(begun)).samples(free)))


def _fit_together(run: Sequence[Training], folders: Mapping[Request, Path]) -> None:
    """Train adapters in one run."""
    first = run[0]
    study = first.study
    unet = study.base.unet
    below = [] if first.below is None else [(adapters.load(unet, weights_of(first.below)), first.scale_below or 0.0)]
    begun = [adapters.fresh(unet, training.spec, training.seed) for training in run]
    # A checkpoint belongs to the adapters that it was made with.
    company = hashlib.sha256("".join(one.request.fingerprint for one in run).encode()).hexdigest()[:16]
    with adapters.folded(unet, below), routed(unet, begun) as routing:
        study.fitting(first.role).fit(
            _task(run, routing),
            _data(run),
            title=f"adapter {first.name}" if len(run) == 1 else f"adapters {first.name} … {run[-1].name}",
            max_steps=max(one.steps for one in run),
            checkpoints=folders[first.request] / CHECKPOINTS / company,
            checkpoint_every=first.recipe.checkpoint_every,
            max_grad_norm=first.recipe.max_grad_norm,
            callbacks=previews(study, first.role, [one.name for one in run], routing.choose),
        )
        for index, one in enumerate(run):
            rank_zero_only(adapters.save)(routing.adapter(index), folders[one.request] / adapters.WEIGHTS)


def _task(run: Sequence[Training], routing: Routing) -> Denoiser:
    """What trains in a run."""
    study = run[0].study
    groups = [
        TrainableGroup(
            one.name,
            routing.parameters(index),
            one.recipe.learning_rate,
            one.warmup,
            one.steps,
            one.recipe.weight_decay,
        )
        for index, one in enumerate(run)
    ]
    names = [record.path for record in study.training_records(run[0].role)]
    return Denoiser(study.base.unet, study.base.noise_scheduler, groups, route=routing.route, names=names)


def _data(run: Sequence[Training]) -> SeededDataModule:
    """What a run is fed with."""
    first = run[0]
    streams = [Stream(torch.tensor(list(one.rows)), one.steps, one.seed) for one in run]
    return SeededDataModule(_samples(first.study.base, first.encoded), streams, batch_size=first.recipe.batch_size)


def _samples(base: Base, encoded: Mapping[str, Artifact]) -> DenoisingSamples:
    """What denoisers train on."""
    latents, texts = open_encoded(encoded["latents"].path, encoded["texts"].path)
    return DenoisingSamples(latents, texts, num_train_timesteps=base.noise_scheduler.config.num_train_timesteps)


def weights_of(adapter: Artifact) -> Path:
    """The file of an adapter: inside an artifact of the store, or what `adapter.path` names."""
    return adapter.path if adapter.path.is_file() else adapter.path / adapters.WEIGHTS


def imported(study: "Study", file: Path) -> Artifact:
    """Stand for an adapter that was trained elsewhere; its fingerprint is that of its content.

    Raises:
        UserError: There is no such file, or a card beside it says that it belongs to another base or ORS adapter.
    """
    try:
        content = hashes.of_file(file)
    except OSError as error:
        raise UserError(f"adapter.path={file}: cannot be read ({error.strerror}); name one safetensors file") from error
    if (card := file.with_name(CARD)).exists():
        known = json.loads(card.read_text(encoding="utf-8"))["inputs"]
        on_ors = study.settings.method.below and study.settings.stage2_on == "ors"
        ours = {
            "base": study.base_artifact.fingerprint,
            "ors": ors_training(study).request.fingerprint if on_ors else None,
        }
        for role, fingerprint in ours.items():
            if known.get(role) != fingerprint and not str(fingerprint).startswith(UNKNOWN):
                raise UserError(
                    f"adapter.path={file}: made on {role} {known.get(role) or 'none'}, but this study has "
                    f"{fingerprint or 'none'} below it; choose the method and settings that it was made with"
                )
    return Artifact("adapter", file.stem, content[:16], file)


def tuned_base(study: "Study") -> Artifact:
    """Tune the whole U-Net, from the base's weights or from random ones; what comes out is a base of its own."""
    method, settings = study.settings.method, study.settings
    recipe = settings.train.finetune if method.start == "base" else settings.train.scratch
    encoded = study.encoded("sar")

    def build(folder: Path) -> None:
        base = Base.load(study.base_artifact.path, settings.base.config)
        if method.start == "random":
            # Not the seed itself: the embedded base may have begun with the very weights that it gives.
            base.forget_unet(step_seed(settings.seed, 1))
        place_network(base.unet.requires_grad_(True), study.device, torch.float32)
        group = TrainableGroup(
            method.name,
            list(base.unet.parameters()),
            recipe.learning_rate,
            recipe.warmup_steps,
            recipe.max_steps,
            recipe.weight_decay,
            recipe.decay,
        )
        names = [record.path for record in study.training]
        study.fitting(method.name).fit(
            Denoiser(base.unet, base.noise_scheduler, [group], names=names).train(),
            SeededDataModule.whole(
                _samples(base, encoded),
                batch_size=recipe.batch_size,
                max_steps=recipe.max_steps,
                seed=settings.seed,
            ),
            title=f"U-Net, {method.name}",
            max_steps=recipe.max_steps,
            checkpoints=folder / CHECKPOINTS,
            checkpoint_every=recipe.checkpoint_every,
            max_grad_norm=recipe.max_grad_norm,
            callbacks=[MovingAverage(recipe.ema_decay)],
        )
        rank_zero_only(base.save)(folder)

    return study.store.make(
        "base",
        f"{settings.base.name}-{method.name}",
        {
            "start": method.start,
            "recipe": recipe.model_dump(exclude={"checkpoint_every"}),
            "seed": settings.seed,
        },
        {"base": study.base_artifact, **encoded},
        build,
        version=1,
        command=study.command("train.py", "stage=sar", f"method={method.name}"),
        precision=study.precision.name,
        work=work.training(study, method.name, recipe),
        collective=True,
    )


def budget(study: "Study") -> dict[str, int]:
    """What a method tunes on SAR images: its trainable parameters, and the samples that they saw."""
    settings, method = study.settings, study.settings.method
    match method.tunes:
        case "unet":
            recipe = settings.train.finetune if method.start == "base" else settings.train.scratch
            file = tuned_base(study).path / "unet" / "diffusion_pytorch_model.safetensors"
            return {"trainable_parameters": adapters.count(file), "samples_seen": recipe.max_steps * recipe.batch_size}
        case "adapter" if settings.adapter.path is None:
            trainings = sar_trainings(study)
            made = train(trainings)
            return {
                "trainable_parameters": sum(adapters.count(weights_of(adapter)) for adapter in made.values()),
                "samples_seen": sum(one.steps * one.recipe.batch_size for one in trainings),
            }
    return {"trainable_parameters": 0, "samples_seen": 0}
