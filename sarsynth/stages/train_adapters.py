"""Train adapters: the view (stage `ors`) and the modality (the adapters of stage `sar`), together where they can.

Adapters that train on the same latents, on top of the same frozen adapter and in equal batches share a run
(see routing.py): the prototypes of a method, its class groups, those of all generator seeds, or with `pack=true` those
of all jobs of a sweep.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only

from sarsynth import processes
from sarsynth.config.training_sections import AdapterTraining
from sarsynth.data.datamodules import SeededDataModule
from sarsynth.data.streams import Sampling, image_weights, part_of_stream
from sarsynth.diffusion import adapter_files, adapters, prototypes
from sarsynth.diffusion.adapters import AdapterSpec
from sarsynth.diffusion.attention import quick_to_learn_through
from sarsynth.diffusion.controlnet import ContourConditioning
from sarsynth.diffusion.denoising import Denoiser, TrainableGroup
from sarsynth.diffusion.routing import LAYOUT, Routing, routed
from sarsynth.diffusion.samples import Contours
from sarsynth.errors import UserError
from sarsynth.stages.check_sizes import check_batch, check_images_of_base, check_rank
from sarsynth.stages.curate_images import classes, samples, training
from sarsynth.stages.encode_images import denoising_samples, encoded
from sarsynth.stages.find_contours import contours, read_contours
from sarsynth.stages.find_prototypes import partition
from sarsynth.stages.load_base import (
    adapter_precision,
    architecture_of_base,
    at_once,
    base_artifact,
    learning_base,
    like_of_steps,
    loaded_adapter,
)
from sarsynth.stages.open_images import Role, flip
from sarsynth.stages.preview import previews
from sarsynth.stages.study import Study, once
from sarsynth.stages.train_controlnet import conditioning, controlnet
from sarsynth.store.artifacts import CHECKPOINTS, Artifact, Request
from sarsynth.store.costs import PER_SAMPLE, Work
from sarsynth.training.memory import free_memory
from sarsynth.training.microbatches import needs

FULL = 4  # bytes of a number


@dataclass(frozen=True)
class Part:
    """What sets one adapter apart from those that a method trains beside it."""

    name: str  # of the adapter, as the stack knows it
    rank: int  # of its matrices
    steps: int  # how long it trains
    warmup: int  # how many of them the learning rate rises
    rows: Sequence[int] | None = None  # which training images it sees, None for all


@dataclass(frozen=True, eq=False)
class Training:
    """One adapter to be trained, and everything that decides it."""

    study: Study  # whose it is
    role: Role  # which images it trains on
    recipe: AdapterTraining  # how it trains; rank, steps and warm-up are those of its part
    part: Part  # what sets it apart
    encoded: Mapping[str, Artifact]  # `latents` and `texts` of the images
    steering: Mapping[str, Artifact]  # their `contours`, and the `controlnet` that follows them; empty where none does
    sampling: Sampling  # in which order it sees them
    below: Artifact | None  # the frozen adapter that it trains on top of, None for the base alone
    request: Request  # what the store makes of it

    @property
    def spec(self) -> AdapterSpec:
        """What the adapter looks like."""
        return AdapterSpec(self.part.rank, self.study.settings.adapter.target_modules)

    @property
    def rows(self) -> Sequence[int]:
        """Which images of the set it sees."""
        return range(len(training(self.study, self.role))) if self.part.rows is None else self.part.rows

    @property
    def scale_below(self) -> float | None:
        """The scale of the adapter below."""
        return self.study.settings.train.sar.scale_below if self.below else None

    @property
    def batch_key(self) -> tuple[Any, ...]:
        """What adapters must have in common to train in one run."""
        recipe = self.recipe
        return (
            *self.encoded.values(),
            *self.steering.values(),
            self.below is not None and (self.spec.target_modules, self.study.settings.train.ors.rank),
            recipe.batch_size,
            recipe.max_grad_norm,
            self.request.precision,
        )


# --- What is to be trained --------------------------------------------------------------------------------------------


def ors_adapter(study: Study) -> Artifact:
    """The view: an adapter trained on aerial optical images (stage `ors`)."""
    return ors_adapters(study)[study.generator_seed]


@once
def ors_adapters(study: Study) -> dict[int, Artifact]:
    """The view of each generator seed."""
    trainings = {cell.generator_seed: ors_training(cell) for cell in study.generators}
    made = train(trainings.values())
    return {seed: made[training.request.fingerprint] for seed, training in trainings.items()}


def check_ors(study: Study) -> None:
    """Refuse sizes of the view's training that could not work, before anything is encoded for it."""
    recipe = study.settings.train.ors
    check_rank(study, "train.ors.rank", recipe.rank)
    check_batch(study, "train.ors.batch_size", recipe.batch_size, len(training(study, "ors")))
    check_images_of_base(study, "ors")


def ors_training(study: Study) -> Training:
    """The view's training."""
    recipe = study.settings.train.ors
    check_ors(study)
    part = Part("ors", recipe.rank, recipe.max_steps, recipe.warmup(recipe.max_steps, whole=True))
    return _training(study, "ors", recipe, part, {})


def check_sar(study: Study) -> None:
    """Refuse sizes of the modality's trainings that could not work, before anything is divided or encoded for them."""
    method, recipe = study.settings.method, study.settings.train.sar
    parts = {"prototypes": study.settings.prototypes.k, "classes": len(classes(study))}
    check_rank(study, "method.rank", method.rank or 0, parts.get(method.partition or "", 1))
    check_batch(study, "train.sar.batch_size", recipe.batch_size, len(training(study, "sar")))
    check_images_of_base(study, "sar")


def sar_trainings(study: Study) -> list[Training]:
    """The modality: the method's SAR adapters, one for each part of its partition that holds images.

    The parts share the rank equally, and the budget of samples by how often their images come (`adapter.sampling`): so
    every method has as many of both as the others, and sees each class as often.

    Raises:
        UserError: There is less rank, or there are fewer steps, than parts.
    """
    method, recipe = study.settings.method, study.settings.train.sar
    assert method.rank is not None
    division, inputs = partition(study)
    sizes = division.counts.sum(axis=0)
    parts, whole = np.flatnonzero(sizes), division.k == 1
    for key, total in (("method.rank", method.rank), ("train.sar.max_steps", recipe.max_steps)):
        if total < len(parts):
            raise UserError(f"{key}={total} is shared by {len(parts)} adapters; raise it to one each at least")
    ranks = prototypes.apportion(method.rank, np.ones(len(parts)))
    weights = image_weights(_labels(study, "sar"), study.settings.adapter.sampling).numpy()
    seen = np.bincount(division.assignments, weights, minlength=division.k)
    budgets = prototypes.apportion(recipe.max_steps, seen[parts])
    if method.below and study.settings.stage2_on == "ors":
        inputs = inputs | {"ors": ors_adapter(study)}
    return [
        _training(
            study,
            "sar",
            recipe,
            Part(
                division.names[part],
                int(rank),
                int(steps),
                recipe.warmup(int(steps), whole=whole),
                None if whole else np.flatnonzero(division.assignments == part).tolist(),
            ),
            inputs,
            together=len(parts),
        )
        for part, rank, steps in zip(parts, ranks, budgets, strict=True)
    ]


def _labels(study: Study, role: Role) -> torch.Tensor:
    """Of the training images of a set, int64 (N,)."""
    return torch.tensor([record.label for record in training(study, role)])


def _training(
    study: Study, role: Role, recipe: AdapterTraining, part: Part, inputs: Mapping[str, Artifact], *, together: int = 1
) -> Training:
    """Put a training together; `together` is how many adapters the method trains in one run."""
    settings, images, steering = study.settings, encoded(study, role), _steering(study, role)
    records, below = training(study, role), inputs.get("ors")
    sampling: Sampling = settings.adapter.sampling if role == "sar" else "uniform"
    divided = [artifact for name, artifact in inputs.items() if name == "partition"]
    request = Request(
        "adapter",
        part.name,
        {
            "rank": part.rank,
            "target_modules": settings.adapter.target_modules,
            "recipe": recipe.model_dump(
                exclude={"rank", "checkpoint_every", "warmup_share", "scale_below"}, exclude_none=True
            )
            | {"max_steps": part.steps, "warmup_steps": part.warmup},
            "rows": part.rows if part.rows is None else list(part.rows),
            "scale_below": settings.train.sar.scale_below if below else None,
            "sampling": sampling,
            "contours": "frozen" if steering else "none",
            "seed": study.generator_seed,
        },
        {"base": base_artifact(study), **images, **steering, **inputs},
        version=3,
        command=study.command("train", f"stage={role}"),
        precision=adapter_precision(study, role).name,
        samples=samples(study, role, records if part.rows is None else [records[row] for row in part.rows]),
        work=_work(
            study, recipe, part, together, bool(steering), rough=not all(artifact.complete for artifact in divided)
        ),
        follows=divided,
    )
    return Training(study, role, recipe, part, images, steering, sampling, below, request)


def _steering(study: Study, role: Role) -> dict[str, Artifact]:
    """What steers the U-Net while SAR adapters learn, as it will when images are made: their contours, the ControlNet.

    They then learn the modality and not the shape. Where images follow no contours, adapters do not either.
    """
    settings = study.settings
    if role != "sar" or settings.adapter.contours == "none" or not settings.contours.wanted:
        return {}
    return {"contours": contours(study, role, "train", "stage=sar"), "controlnet": controlnet(study)}


def _work(study: Study, recipe: AdapterTraining, part: Part, together: int, steered: bool, *, rough: bool) -> Work:
    """The work in an adapter; it is `rough` as long as nobody knows how the steps are shared out among several."""
    disk = None
    if architecture := architecture_of_base(study):
        spec = AdapterSpec(part.rank, study.settings.adapter.target_modules)
        disk = FULL * adapters.parameters(adapters.fresh(architecture[0], spec, 0))
    return Work(
        "adapter",
        PER_SAMPLE,
        part.steps * recipe.batch_size,
        like_of_steps(study) | {"targets": study.settings.adapter.targets, "contours": steered},
        batch=at_once(study, together * recipe.batch_size),
        disk_bytes=disk,
        rough=rough,
    )


# --- How it is trained ------------------------------------------------------------------------------------------------


def train(trainings: Iterable[Training]) -> dict[str, Artifact]:
    """Make adapters, those that are missing in as few runs as possible; by fingerprint of their requests."""
    runs: dict[tuple[Any, ...], list[Training]] = {}
    for adapter in trainings:
        runs.setdefault(adapter.batch_key, []).append(adapter)
    made: dict[str, Artifact] = {}
    for run in runs.values():
        artifacts = run[0].study.store.make_all(
            [adapter.request for adapter in run],
            lambda folders, run=run: _fit([adapter for adapter in run if adapter.request in folders], folders),  # type: ignore[misc]
            collective=True,
        )
        made |= {adapter.request.fingerprint: artifacts[adapter.request] for adapter in run}
    return made


def _fit(run: Sequence[Training], folders: Mapping[Request, Path]) -> None:
    """Train adapters of one batch key, in as few runs as the memory allows."""
    # Of several runs that one after the other made, a killed job finds what those before it have saved.
    missing = [adapter for adapter in run if not (folders[adapter.request] / adapter_files.WEIGHTS).exists()]
    if missing:
        for rows in np.array_split(np.arange(len(missing)), math.ceil(len(missing) / _together(missing))):
            _fit_together([missing[row] for row in rows], folders)


def _together(run: Sequence[Training]) -> int:
    """How many of some adapters may train in one run: one sample of each has to go through the network at once."""
    study, largest = run[0].study, max(run, key=lambda adapter: adapter.part.rank)
    options, unet = study.step_options, learning_base(study, run[0].role).unet
    if options.micro_batch != "auto":
        return options.micro_batch
    if len(run) == 1:
        return 1
    fresh = adapters.fresh(unet, largest.spec, largest.study.generator_seed)
    with routed(unet, [fresh]) as routing, quick_to_learn_through(unet):
        name = run[0].request.precision
        need = needs(_task([largest], routing), _data([largest]), options, study.device, name)
    free = free_memory(study.device, study.compute.processes // study.settings.trainer.num_nodes)
    return max(1, processes.least(need.with_each(adapters.parameters(fresh)).samples(free)))


def _fit_together(run: Sequence[Training], folders: Mapping[Request, Path]) -> None:
    """Train adapters in one run."""
    lead = run[0]
    study, names = lead.study, _names(run)
    model, precision = learning_base(study, lead.role), adapter_precision(study, lead.role)
    unet = model.unet
    standing = [adapter for adapter in run if adapter.below]
    below = [(loaded_adapter(study, adapter.below, model), adapter.scale_below or 0.0) for adapter in standing]  # type: ignore[arg-type]
    # One that all stand on is folded into the weights, and costs nothing.
    shared = len({(adapter.below, adapter.scale_below) for adapter in run}) == 1
    folded, routed_below = (below[:1], []) if shared else ([], below)
    fresh = [adapters.fresh(unet, adapter.spec, adapter.study.generator_seed) for adapter in run]
    # A checkpoint belongs to the adapters that it was made with, and to how their weights lie in it.
    belongs_to = "".join([LAYOUT, *(adapter.request.fingerprint for adapter in run)])
    of_run = hashlib.sha256(belongs_to.encode()).hexdigest()[:16]
    with adapters.folded(unet, folded), routed(unet, fresh, routed_below) as routing, quick_to_learn_through(unet):
        study.fitting(lead.role, precision=precision).fit(
            _task(run, routing),
            _data(run),
            title=f"adapter {names[0]}" if len(run) == 1 else f"adapters {names[0]} … {names[-1]}",
            max_steps=max(adapter.part.steps for adapter in run),
            checkpoints=folders[lead.request] / CHECKPOINTS / of_run,
            checkpoint_every=lead.recipe.checkpoint_every,
            max_grad_norm=lead.recipe.max_grad_norm,
            callbacks=previews(study, lead.role, names, routing.choose, _conditioning(lead), _maps(lead)),
        )
        for index, adapter in enumerate(run):
            rank_zero_only(adapter_files.save)(routing.adapter(index), folders[adapter.request] / adapter_files.WEIGHTS)


def _names(run: Sequence[Training]) -> list[str]:
    """What adapters of a run are called: by their generator seeds too, where these differ."""
    seeds = [adapter.study.generator_seed for adapter in run]
    several = len(set(seeds)) > 1
    named = [f"{adapter.part.name}_seed_{seed}" for adapter, seed in zip(run, seeds, strict=True)]
    return named if several else [adapter.part.name for adapter in run]


def _task(run: Sequence[Training], routing: Routing) -> Denoiser:
    """What trains in a run."""
    study, model = run[0].study, learning_base(run[0].study, run[0].role)
    groups = [
        TrainableGroup(
            name,
            routing.parameters(index),
            adapter.recipe.learning_rate,
            adapter.part.warmup,
            adapter.part.steps,
            adapter.recipe.weight_decay,
            faster=routing.b_matrices(index),
            ratio=adapter.recipe.loraplus_lr_ratio,
            snr_gamma=adapter.recipe.snr_gamma,
        )
        for index, (name, adapter) in enumerate(zip(_names(run), run, strict=True))
    ]
    return Denoiser(
        model.unet,
        model.noise_scheduler,
        groups,
        route=routing.route,
        names=[record.path for record in training(study, run[0].role)],
        conditioning=_conditioning(run[0]),
    )


def _conditioning(lead: Training) -> ContourConditioning | None:
    """What steers the U-Net in a run: at full scale, as ControlNets learn, so that images may vary it later."""
    in_use = conditioning(lead.study, learning_base(lead.study, lead.role)) if lead.steering else None
    return in_use and ContourConditioning(in_use.controlnet)


def _maps(lead: Training) -> Contours | None:
    """The contours that steer it, of all images of the set."""
    if not lead.steering:
        return None
    return Contours(read_contours(lead.steering["contours"])["packed"], flip(lead.study, lead.role))


def _data(run: Sequence[Training]) -> SeededDataModule:
    """What a run is fed with."""
    lead = run[0]
    labels = _labels(lead.study, lead.role)
    streams = [
        part_of_stream(
            labels, torch.tensor(adapter.rows), adapter.part.steps, adapter.study.generator_seed, adapter.sampling
        )
        for adapter in run
    ]
    samples = denoising_samples(learning_base(lead.study, lead.role), lead.encoded, contours=_maps(lead))
    return SeededDataModule(samples, streams, batch_size=lead.recipe.batch_size)
