"""How fast this package is beside named peers: one command, one table.

    python benchmarks/speed.py [--size sd-nano|sd15] [--device cpu|cuda] [--only WORD ...] [--rounds 15] [--record]

Both sides do the same work in turns in one process; a row gives the median time of ours and of the fastest peer, and
the ratio turn by turn with its middle half. On CPUs it is CPU seconds of one thread that decide, on a card wall time.
`--memory` runs each side once more, alone in a process, for its peak memory. `--record` writes docs/speed-SIZE.json and
puts all recorded tables between the marks of docs/speed.md. Needs: pip install "sarsynth[bench]".
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here needs the hub

from sarsynth.cli import CONF
from sarsynth.commands.session import quieten
from sarsynth.config.checks import check
from sarsynth.data.datamodules import SeededDataModule
from sarsynth.diffusion.adapters import AdapterSpec, LowRank, folded, fresh
from sarsynth.diffusion.attention import quick_to_learn_through
from sarsynth.diffusion.base import NANO, Base
from sarsynth.diffusion.controlnet import ContourConditioning, new_controlnet, to_conditioning
from sarsynth.diffusion.denoising import Denoiser, TrainableGroup
from sarsynth.diffusion.latents import Latents, Texts, encode_images
from sarsynth.diffusion.routing import routed
from sarsynth.diffusion.samples import Contours, DenoisingSamples
from sarsynth.diffusion.sampling import Guidance, SampleRequest, sample
from sarsynth.diffusion.step_interval import ALWAYS, StepInterval
from sarsynth.evidence.fidelity import fid, fidelity
from sarsynth.training.fitting import Fitting
from sarsynth.training.precision import Precision, choose_for_pass, measured_gain
from sarsynth.training.tasks import StepOptions

import again
import hydra
import peers
import torch
import torch.nn.functional as F
from contests import Beside, Laps, Rival, Row, judged, take_turns
from diffusers import DPMSolverMultistepScheduler, UNet2DConditionModel
from lightning.pytorch import Trainer
from measuring import machine
from sd15 import save_random
from speed_table import print_rows, record
from torch import Tensor

RANK, ORS_RANK = 4, 16
IMAGES = 64
PROTOTYPES = 4  # of the stack that generation uses, beside the ORS adapter
SAMPLER_STEPS = 10
GUIDANCE_SCALE = 3.0
SOME_STEPS = StepInterval(0.2, 0.8)  # in which guidance leads in the demo
FEATURES, COMPARED = 512, 10_000  # width of a feature, images of either side
CELLS = 100  # of a sweep
LIMIT = 30 * 60  # seconds that one side may take alone


@dataclass
class Arena:
    """The base in the size and on the device that a contest is held with; each side gets networks of its own."""

    size: str
    device: str
    rounds: int
    scratch: Path
    sides: tuple[str, ...] = ("ours", "rivals")
    opened: ExitStack = field(default_factory=ExitStack)  # what stays in place while a contest is held

    @cached_property
    def folder(self) -> Path:
        """Where the base lies."""
        if self.size == "sd-nano":
            return NANO
        folder = self.scratch / "sd15"
        return folder if folder.exists() else save_random(folder)

    @property
    def image_size(self) -> int:
        """Pixels of a side."""
        return 64 if self.size == "sd-nano" else 256

    @property
    def latent_side(self) -> int:
        """Latent cells of a side."""
        return self.image_size // (4 if self.size == "sd-nano" else 8)

    @property
    def precision(self) -> Precision:
        """Of both sides."""
        return Precision("bf16-mixed") if self.device == "cuda" else Precision()

    @property
    def by(self) -> str:
        """Which time decides."""
        return "wall" if self.device == "cuda" else "cpu"

    @cached_property
    def target_modules(self) -> str:
        """The layers that an adapter of this base changes."""
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return check(hydra.compose("evaluate", [f"base={self.size}"])).adapter.target_modules

    def base(self, precision: Precision | None = None) -> Base:
        """A base of one's own, frozen, in the precision of trainings or another one."""
        base = Base.load(self.folder).requires_grad_(False)
        return base.place(torch.device(self.device), precision or self.precision)

    def passes_in(self, samples: int) -> Precision:
        """What `adapter.precision=auto` and `generate.precision=auto` come to for a pass of so many samples."""
        width = json.loads((self.folder / "unet/config.json").read_text())["block_out_channels"][0]
        activations = samples * self.latent_side**2 * width
        device = torch.device(self.device)
        return choose_for_pass("auto", self.precision, device, activations, key="", gain=measured_gain)

    def theirs(self, precision: Precision) -> list[Precision]:
        """In which precisions a rival works where ours does in this one: alone for its memory, in that."""
        return list(dict.fromkeys([self.precision, precision])) if "ours" in self.sides else [precision]

    def turns(self, ours: Callable[[], object], rivals: Sequence[Rival]) -> Laps:
        """Hold a contest."""
        return take_turns(ours, rivals, self.rounds)


@dataclass(frozen=True)
class Contest:
    """One row to be: its claim, what is measured, and the ratio that the project set itself."""

    claim: str
    held: Callable[[Arena], Laps]
    goal: float | None = None
    memory: bool = False  # whether peaks are compared too
    by: str | None = None  # which time decides, where it is not the arena's


# --- Training ---------------------------------------------------------------------------------------------------------


def encoded(base: Base, size: int, contours: bool) -> DenoisingSamples:
    """Our training data: made-up latents in both views, one text."""
    channels, side = base.unet.config.in_channels, size // base.latent_factor
    moments = torch.rand(IMAGES, 2, 2, channels, side, side).half()
    texts = Texts(base.encode_text([peers.PROMPT]).cpu(), torch.zeros(IMAGES, dtype=torch.long))
    steps = base.noise_scheduler.config.num_train_timesteps
    lines = Contours(torch.randint(256, (IMAGES, size, size // 8), dtype=torch.uint8), "horizontal")
    return DenoisingSamples(Latents(moments), texts, num_train_timesteps=steps, contours=lines if contours else None)


def lora_step(arena: Arena, batch_size: int, *, controlled: bool = False) -> Laps:
    """A step of the SAR adapter, as `train.py` trains it, beside one of diffusers' script.

    The script's loop is timed in float32 and where ours learns in another precision in that too; the faster counts.
    """
    precision, rivals = arena.passes_in(batch_size), []
    if "rivals" in arena.sides:
        script = "train_text_to_image_lora's loop" + (" with a ControlNet" if controlled else "")
        contour = to_conditioning(torch.randint(2, (1, arena.image_size, arena.image_size)) * 255)[0]
        for in_use in arena.theirs(precision):
            theirs = arena.base(in_use)
            loop = peers.ScriptLoop(
                theirs,
                RANK,
                arena.target_modules,
                batch_size,
                arena.image_size,
                new_controlnet(theirs, seed=0) if controlled else None,
                contour if controlled else None,
                bfloat16=in_use.compute == torch.bfloat16,
            )
            name = f"{peers.version('diffusers')}, {peers.version('peft')}: {script}, {in_use.words}"
            rivals.append(Rival(name, loop))
        if "ours" not in arena.sides:
            return take_turns(rivals[-1].step, (), arena.rounds)
    beside, steps = Beside(rivals), arena.rounds + 2
    base = arena.base(precision)
    conditioning = None
    if controlled:
        controlnet = new_controlnet(base, seed=0).requires_grad_(False).eval()
        conditioning = ContourConditioning(controlnet.to(arena.device, base.unet.dtype))
    begun = [fresh(base.unet, AdapterSpec(RANK, arena.target_modules), 0)]
    with routed(base.unet, begun) as routing, quick_to_learn_through(base.unet):
        group = TrainableGroup("sar", routing.parameters(0), 1e-4, 0, steps, 0.01, decay="constant")
        module = Denoiser(base.unet, base.noise_scheduler, [group], route=routing.route, conditioning=conditioning)
        data = SeededDataModule.whole(
            encoded(base, arena.image_size, controlled), batch_size=batch_size, max_steps=steps, seed=0
        )
        trainer = partial(
            Trainer, accelerator="gpu" if arena.device == "cuda" else "cpu", devices=1, precision=precision.name
        )
        fitting = Fitting(trainer, options=StepOptions(micro_batch=batch_size))
        fitting.fit(module, data, title="ours", max_steps=steps, max_grad_norm=1.0, callbacks=[beside])
    return beside.laps


def together(arena: Arena, adapters: int, each: int) -> Laps:
    """K adapters in one pass, beside K single steps, of PEFT's and of our own.

    Ours learn in the precision that an adapter of such a batch has, together or alone; PEFT's in that and in float32.
    """
    precision, rivals = arena.passes_in(each), []
    ours = _stepper(arena, adapters, each, precision)
    if "rivals" in arena.sides:
        rivals = [
            Rival(f"{peers.version('peft')}: single steps, {of.words}", _stepper(arena, 0, each, of), adapters)
            for of in arena.theirs(precision)
        ]
        if adapters > 1:
            rivals.append(Rival("our own single steps", _stepper(arena, 1, each, precision), adapters))
    return arena.turns(ours, rivals)


def _stepper(arena: Arena, adapters: int, each: int, precision: Precision) -> Callable[[], None]:
    """Forward, backward, clipping and AdamW for adapters routed together; 0 is one of PEFT's."""
    unet = arena.base(precision).unet.train()
    inputs = _inputs(unet, arena.latent_side, max(adapters, 1) * each, arena.device)
    if adapters:
        begun = [fresh(unet, AdapterSpec(RANK, arena.target_modules), seed) for seed in range(adapters)]
        routing = arena.opened.enter_context(routed(unet, begun))
        arena.opened.enter_context(quick_to_learn_through(unet))
        groups = [routing.parameters(index) for index in range(adapters)]
    else:
        groups = [peers.with_peft(unet, RANK, arena.target_modules)]
    optimizer = torch.optim.AdamW([parameter for group in groups for parameter in group], lr=1e-4, fused=True)

    def step() -> None:
        with precision.autocast(torch.device(arena.device)):
            prediction = unet(*inputs).sample
        F.mse_loss(prediction.float(), inputs[0].float()).backward()
        for group in groups:
            torch.nn.utils.clip_grad_norm_(group, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _inputs(unet: UNet2DConditionModel, side: int, rows: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    noisy = torch.randn(rows, unet.config.in_channels, side, side, device=device, dtype=unet.dtype)
    text = torch.randn(rows, 77, unet.config.cross_attention_dim, device=device, dtype=unet.dtype)
    return noisy, torch.randint(1000, (rows,), device=device), text


# --- Generation -------------------------------------------------------------------------------------------------------


def images(
    arena: Arena,
    batch_size: int,
    theirs: Sequence[int],
    *,
    adapters: int = 0,
    controlled: bool = False,
    led: StepInterval = ALWAYS,
) -> Laps:
    """Images by an ORS and K prototype adapters folded into the weights, beside diffusers' pipeline with PEFT's.

    Args:
        arena: Where.
        batch_size: Images of one of our turns.
        theirs: Batch sizes of the pipeline, which turn by turn makes as many images, in float32 and where ours draws
            in another precision in that too; the fastest counts.
        adapters: Prototype adapters, beside that of the ORS stage; 0 is the base alone on both sides.
        controlled: Whether a ControlNet steers both.
        led: In which steps guidance leads ours; it leads the pipeline's in all.
    """
    rivals = []
    if "rivals" in arena.sides:
        for precision in arena.theirs(arena.passes_in(2 * batch_size)):
            pipe = _pipeline(arena, precision, adapters, controlled)
            for size in theirs:
                name = f"{peers.version('diffusers')}: {type(pipe).__name__}, batch {size}, {precision.words}"
                step = partial(_piped, pipe, size, arena.image_size, controlled)
                rivals.append(Rival(name, step, batch_size // size))
        if "ours" not in arena.sides:
            return take_turns(rivals[-1].step, (), arena.rounds)
    return arena.turns(_sampler(arena, batch_size, adapters, controlled, led), rivals)


def _pipeline(arena: Arena, precision: Precision, adapters: int, controlled: bool) -> Any:
    """Diffusers' pipeline with its adapters, and all of it in one precision."""
    base = arena.base(precision)
    control = new_controlnet(base, seed=0).requires_grad_(False).eval() if controlled else None
    if adapters:
        peers.adapt(base.unet, [ORS_RANK, *[RANK] * adapters], arena.target_modules)
        base.place(torch.device(arena.device), precision)
    return peers.pipeline(base, control.to(arena.device, base.unet.dtype) if control is not None else None)


def _piped(pipe: Any, batch_size: int, size: int, controlled: bool) -> None:
    more = {"image": torch.zeros(batch_size, 3, size, size)} if controlled else {}
    options = {"num_inference_steps": SAMPLER_STEPS, "guidance_scale": GUIDANCE_SCALE, "height": size, "width": size}
    pipe([peers.PROMPT] * batch_size, output_type="pt", **options, **more)


def _sampler(
    arena: Arena, batch_size: int, adapters: int, controlled: bool, led: StepInterval = ALWAYS
) -> Callable[[], None]:
    """Our sampling, the adapters folded into the weights once, as a run does for all images of a class."""
    base = arena.base(arena.passes_in(2 * batch_size))
    conditioning = None
    if controlled:
        controlnet = new_controlnet(base, seed=0).requires_grad_(False).eval()
        conditioning = ContourConditioning(controlnet.to(arena.device, base.unet.dtype))
    ranks = [ORS_RANK, *[RANK] * adapters] if adapters else []
    specs = [AdapterSpec(rank, arena.target_modules) for rank in ranks]
    stack = [(_filled(fresh(base.unet, spec, seed)), 0.25) for seed, spec in enumerate(specs)]
    arena.opened.enter_context(folded(base.unet, stack))
    contour = torch.zeros(arena.image_size, arena.image_size, dtype=torch.uint8) if controlled else None
    scheduler = DPMSolverMultistepScheduler.from_config(base.noise_scheduler.config)

    def run() -> None:
        requests = [SampleRequest(peers.PROMPT, (0, index), contour) for index in range(batch_size)]
        made = sample(
            base,
            scheduler,
            requests,
            image_size=arena.image_size,
            guidance=Guidance(GUIDANCE_SCALE, led),
            num_inference_steps=SAMPLER_STEPS,
            batch_size=batch_size,
            conditioning=conditioning,
        )
        assert sum(len(batch) for batch in made) == batch_size

    return run


def _filled(adapter: dict[str, LowRank]) -> dict[str, LowRank]:
    """An adapter that changes something."""
    return {name: LowRank(layer.a, torch.randn_like(layer.b) * 0.01) for name, layer in adapter.items()}


def fold_for_nothing(arena: Arena) -> Laps:
    """Images with K + 1 adapters beside our own without any."""
    plain = Rival("our own base without adapters", _sampler(arena, 4, 0, controlled=False))
    return arena.turns(_sampler(arena, 4, PROTOTYPES, controlled=False), [plain])


# --- Once -------------------------------------------------------------------------------------------------------------


def encoding(arena: Arena) -> Laps:
    """Both views of 16 images, beside the autoencoder call of diffusers' script on as many."""
    pictures = torch.randint(256, (16, 1, arena.image_size, arena.image_size), dtype=torch.uint8)
    base, theirs = arena.base(), arena.base()

    def script() -> None:
        for batch in (pictures.float() / 127.5 - 1).expand(-1, 3, -1, -1).split(4):
            with torch.no_grad():
                theirs.vae.encode(batch.to(theirs.vae.device, theirs.vae.dtype)).latent_dist.sample()

    rival = Rival(f"{peers.version('diffusers')}: AutoencoderKL.encode in batches of 4", script, 2)
    return arena.turns(lambda: encode_images(base, pictures, flip="horizontal", batch_size=16), [rival])


def distances(arena: Arena) -> Laps:
    """FID, KID, precision and recall of ready features of 10,000 images, beside torch-fidelity; ours has intervals."""
    real, synthetic = _features()
    labels = torch.zeros(COMPARED, dtype=torch.long)
    measure = peers.fidelity(real, synthetic)
    theirs, ours = measure()["frechet_inception_distance"], fid(real, synthetic)
    assert abs(theirs - ours) < 1e-6 * theirs, f"they do not measure the same: {theirs}, {ours}"
    rival = Rival(f"{peers.version('torch-fidelity')}: FID, KID, precision and recall, no intervals", measure)
    rounds = min(arena.rounds, 3)
    return take_turns(lambda: fidelity(real, labels, synthetic, labels, ["ship"]), [rival], rounds, warmup=0)


def distances_again(arena: Arena) -> Laps:
    """The same once it was measured."""
    return again.fidelity_again(*_features(), arena.scratch / "store", arena.rounds)


def _features() -> tuple[Tensor, Tensor]:
    """Made-up features of real and of synthetic images."""
    draw = torch.Generator().manual_seed(0)
    return torch.randn(COMPARED, FEATURES, generator=draw), 1.1 * torch.randn(COMPARED, FEATURES, generator=draw)


def cells_summed_up(arena: Arena) -> Laps:
    """What a sweep ends with."""
    return again.summed_up(CELLS, arena.scratch / "cells", min(arena.rounds, 3))


def command(arena: Arena, arguments: Sequence[str], code: int = 0) -> Laps:
    """A command line as a process of its own, from start to end."""
    script = [sys.executable, str(CONF.parents[1] / "evaluate.py"), *arguments]

    def run() -> None:
        done = subprocess.run(script, capture_output=True, text=True, cwd=arena.scratch, check=False)
        assert done.returncode == code, done.stderr

    return take_turns(run, (), min(arena.rounds, 5), warmup=1)


# --- All of them ------------------------------------------------------------------------------------------------------


def contests(size: str) -> Iterator[Contest]:
    """What is held at a size."""
    nano = size == "sd-nano"
    goal = 1.5 if nano else 2.0
    for batch in (1, 4, 16) if nano else (1,):
        yield Contest(f"LoRA step, batch {batch}", partial(lora_step, batch_size=batch), goal, memory=True)
        claim = f"LoRA step with a frozen ControlNet, batch {batch}"
        yield Contest(claim, partial(lora_step, batch_size=batch, controlled=True), memory=True)
    goals = {(4, 1): 2.4, (4, 4): 1.9, (4, 8): 1.4} if nano else {(4, 1): 1.6}
    for adapters, each in [(k, n) for n in (1, 4, 8) for k in (1, 2, 4, 8)] if nano else [(1, 1), (4, 1)]:
        claim = f"adapters x samples in one pass, {adapters} x {each}"
        yield Contest(claim, partial(together, adapters=adapters, each=each), goals.get((adapters, each), 1.0))
    for controlled in (False, True):
        by = f"1 + {PROTOTYPES} adapters" + (" and a ControlNet" if controlled else "")
        some = Guidance(GUIDANCE_SCALE, SOME_STEPS).passes(SAMPLER_STEPS) - SAMPLER_STEPS
        for led, words in (ALWAYS, ""), (SOME_STEPS, f", guidance in {some} of {SAMPLER_STEPS} steps"):
            draw = partial(images, adapters=PROTOTYPES, controlled=controlled, led=led)
            one, best = partial(draw, batch_size=1, theirs=(1,)), partial(draw, batch_size=8, theirs=(1, 8))
            yield Contest(f"image with {by}, batch 1{words}", one, 4.0, memory=led == ALWAYS)
            yield Contest(f"8 images with {by}, best batch{words}", best, 2.5)
    yield Contest("image without adapters, batch 1", partial(images, batch_size=1, theirs=(1,)), 1.0)
    yield Contest(f"4 images: 1 + {PROTOTYPES} adapters cost no more than none", fold_for_nothing, 0.97)
    yield Contest("encoding 16 images and their mirror images", encoding, 1.0)
    if nano:
        yield Contest(f"fidelity of {COMPARED:,} images from ready features of {FEATURES}", distances, 1.0)
        yield Contest(f"fidelity of {COMPARED:,} images, found in the store", distances_again, 2.0, by="wall")
        yield Contest(f"a sweep of {CELLS} reused cells summed up", cells_summed_up, 10.0)
        yield Contest("a configuration error", lambda arena: command(arena, ["seedz=3"], code=1), 1.5, by="wall")
        yield Contest("--help", lambda arena: command(arena, ["--help"]), 1.5, by="wall")


def alone(arena: Arena, contest: Contest, side: str) -> float:
    """Peak memory of one side in a process of its own, bytes."""
    where = ["--size", arena.size, "--device", arena.device, "--scratch", str(arena.scratch)]
    asked = [sys.executable, __file__, *where, "--only", contest.claim, "--alone", side, "--rounds", "2"]
    done = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=LIMIT)
    return float(done.stdout.split()[-1])


def peak(device: str) -> float:
    """Peak memory of this process, or of the card, bytes."""
    if device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    # Not getrusage: what it calls a process's peak is also that of the process which started it.
    (kilobytes,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return float(kilobytes) * 1024


def main() -> None:
    """Hold the contests, print the table, record it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", choices=["sd-nano", "sd15"], default="sd-nano")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", nargs="*", help="words of claims")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--memory", action="store_true", help="also the peak memory of each side, alone")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--scratch", type=Path, help="an empty folder for the base's files; default: a temporary one")
    parser.add_argument("--alone", choices=["ours", "rivals"], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    quieten()
    if asked.device == "cpu":
        torch.set_num_threads(1)
    with TemporaryDirectory() as temporary:
        scratch = asked.scratch or Path(temporary)
        arena = Arena(asked.size, asked.device, asked.rounds, scratch)
        words = asked.only or [""]
        chosen = [contest for contest in contests(asked.size) if any(word in contest.claim for word in words)]
        if asked.alone:
            chosen[0].held(replace(arena, sides=(asked.alone,)))
            print(peak(asked.device))
            return
        rows: list[Row] = []
        for contest in chosen:
            with ExitStack() as opened:
                laps = contest.held(replace(arena, opened=opened))
            row = judged(contest.claim, laps, goal=contest.goal, by=contest.by or arena.by)
            if asked.memory and contest.memory:
                row = replace(row, memory=(alone(arena, contest, "ours"), alone(arena, contest, "rivals")))
            rows.append(row)
            print_rows([row])
    if asked.record:
        record(asked.size, {"machine": machine(), "device": asked.device, "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
