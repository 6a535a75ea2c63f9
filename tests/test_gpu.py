"""On a CUDA card: the same commands compute what they compute on a CPU, in its precisions, without waiting for it.

`make gpu` runs these; without a card they are skipped. What can be shown without one is in test_devices.py.
"""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import processes
import pytest
import torch
from test_classifier import RECIPE
from test_pipeline import OF_SEVERAL_SEEDS, ROOT, TINY, Command, artifact, command  # noqa: F401
from test_resuming import run as run_killable

from sarsynth import cli
from sarsynth.classifier.network import Classifier, predict
from sarsynth.data.transforms import to_float
from sarsynth.diffusion import adapter_files
from sarsynth.diffusion.base import NANO, Base
from sarsynth.diffusion.denoising import Denoiser
from sarsynth.report.pictures import read_png
from sarsynth.training import fitting
from sarsynth.training.precision import FULL, Precision

pytestmark = pytest.mark.gpu
two_cards = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA cards")

CARD = torch.device("cuda", 0)
ON_CARD = ("trainer=gpu", "logger=none")
LORA = ("stage=sar", "method=lora", *TINY, "train.sar.max_steps=20")
# How far a short training may end from that of a CPU in float32, as a share of what it changed: it carries roundings
# on, and a gradient scaler leaves out steps until it has found its scale.
APART = {"32-true": 0.1, "bf16-mixed": 0.3, "16-mixed": 0.5}


@pytest.fixture
def run(command: Command) -> Command:  # noqa: F811  # a fixture of another file is a name of this one
    """Run a script, see test_pipeline."""
    return command


def updates(store: Path, base: Base) -> dict[str, torch.Tensor]:
    """What a trained LoRA adds to each layer."""
    made = adapter_files.load(base.unet, artifact(store, "adapter", "sar") / adapter_files.WEIGHTS)
    return {name: layer.delta() for name, layer in made.items()}


def apart(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Norm of the difference of two updates, as a share of that of the second."""
    difference = math.sqrt(sum(float((ours[name] - update).square().sum()) for name, update in theirs.items()))
    return difference / math.sqrt(sum(float(update.square().sum()) for update in theirs.values()))


def trained(run: Command, folder: Path, base: Base, *overrides: str) -> dict[str, torch.Tensor]:
    """Train a LoRA in a folder of its own."""
    folder.mkdir()
    done = run("train", *LORA, *overrides, folder=folder)
    assert done.code == 0, done.err
    return updates(folder / "logs/store", base)


def images(folder: Path) -> torch.Tensor:
    """The images of the only synthetic set there, in grey levels."""
    (made,) = (folder / "logs/store/synthetic").iterdir()
    files = sorted((made / "images").rglob("*.png"))
    return torch.stack([torch.from_numpy(read_png(file).copy()) for file in files]).float()


# --- What is computed is what a CPU computes --------------------------------------------------------------------------


def test_adapters_of_several_generator_seeds_learn_by_the_defaults_of_a_card(run):
    done = run("train", *OF_SEVERAL_SEEDS, *ON_CARD)
    assert done.code == 0, done.err


@pytest.mark.parametrize("precision", APART)
def test_a_lora_learns_what_it_learns_on_a_cpu(run, tmp_path: Path, nano: Base, precision: str):
    expected = trained(run, tmp_path / "cpu", nano, "trainer=cpu")
    learnt = trained(run, tmp_path / "card", nano, *ON_CARD, f"trainer.precision={precision}")
    assert apart(learnt, expected) < APART[precision]


@pytest.mark.parametrize("precision", APART)
def test_images_are_those_of_a_cpu(run, tmp_path: Path, precision: str):
    for place, options in {"cpu": ["trainer=cpu"], "card": [*ON_CARD, f"trainer.precision={precision}"]}.items():
        (tmp_path / place).mkdir()
        done = run("generate", "method=frozen", *TINY, *options, folder=tmp_path / place)
        assert done.code == 0, done.err
    assert (images(tmp_path / "card") - images(tmp_path / "cpu")).abs().mean() < 2, "grey levels"


@pytest.mark.parametrize("precision", APART)
def test_logits_are_those_of_a_cpu(precision: str):
    shown = torch.randint(256, (8, 1, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    on_cpu = Classifier(RECIPE, ["a", "b"], [100.0], [50.0], 0).eval()
    on_card = Classifier(RECIPE, ["a", "b"], [100.0], [50.0], 0, Precision(precision)).eval().to(CARD)
    torch.testing.assert_close(predict(on_card, shown), predict(on_cpu, shown), rtol=0.05, atol=0.05)


def test_a_whole_study_runs_on_it(run, tmp_path: Path):
    done = run("evaluate", "method=plora", "contours=real", *TINY, *ON_CARD)
    assert done.code == 0, done.err
    (result,) = tmp_path.glob("logs/runs/evaluate/*/result.json")
    assert 0 <= json.loads(result.read_text())["classifier"]["macro_f1"]["mean"] <= 1
    card = json.loads((artifact(tmp_path / "logs/store", "adapter", "ors") / "card.json").read_text())
    assert card["device"] == torch.cuda.get_device_name(0)
    assert card["peak_memory_bytes"] > 0
    assert card["precision"] == ("bf16-mixed" if torch.cuda.is_bf16_supported(False) else "16-mixed")


# --- Precision and memory format --------------------------------------------------------------------------------------


def test_frozen_weights_are_in_half_precision_and_what_learns_is_not(run, tmp_path, nano, monkeypatch):
    seen = {}

    def look(bar, trainer, module, *_):
        states = [value for state in trainer.optimizers[0].state.values() for value in state.values()]
        seen["frozen"] = {p.dtype for p in module.unet.parameters() if not p.requires_grad}
        seen["learning"] = {p.dtype for p in module.unet.parameters() if p.requires_grad}
        seen["optimiser"] = {value.dtype for value in states}
        seen["devices"] = {value.device for value in [*module.parameters(), *module.buffers(), *states]}

    monkeypatch.setattr(fitting.StepBar, "on_train_batch_end", look)
    trained(run, tmp_path / "card", nano, *ON_CARD)
    half = torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
    assert seen == {"frozen": {half}, "learning": {torch.float32}, "optimiser": {torch.float32}, "devices": {CARD}}


@torch.no_grad()
def test_convolutions_work_in_channels_last():
    base = Base.load(NANO).place(CARD, FULL)
    given = []
    base.unet.conv_out.register_forward_hook(lambda layer, inputs, output: given.append(output))
    text = base.encode_text(["a photo"])
    base.unet(torch.randn(1, 4, 8, 8, device=CARD), torch.tensor(1, device=CARD), text)
    assert given[0].is_contiguous(memory_format=torch.channels_last)
    convolutions = [layer.weight for layer in base.unet.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in convolutions)


@torch.no_grad()
@pytest.mark.parametrize("precision", APART)
def test_the_autoencoder_does_not_overflow(precision: str):
    base = Base.load(NANO).place(CARD, Precision(precision))
    shown = to_float(torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)).to(CARD)
    decoded = base.decode(base.encode(shown)[0])
    assert decoded.isfinite().all() and decoded.dtype == torch.float32


# --- Steps ------------------------------------------------------------------------------------------------------------


def test_a_training_step_does_not_wait_for_the_card(run, tmp_path: Path, nano: Base, monkeypatch):
    """From the third step on to the end of the last but one: feeding, forward, backward, optimiser and callbacks."""
    step, bar = Denoiser.training_step, fitting.StepBar.on_train_batch_end
    watched = []

    def begin(module, *args, **kwargs):
        if module.trainer.global_step == 2:
            torch.cuda.set_sync_debug_mode("error")
        watched.append(torch.cuda.get_sync_debug_mode())
        return step(module, *args, **kwargs)

    def end(self, trainer, *args):
        bar(self, trainer, *args)
        if trainer.global_step == 18:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Denoiser, "training_step", begin)
    monkeypatch.setattr(fitting.StepBar, "on_train_batch_end", end)
    try:
        trained(run, tmp_path / "card", nano, *ON_CARD)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert watched.count(2) == 16, "2 is `error`"


@pytest.mark.parametrize("option", ["train.micro_batch=2", "train.gradient_checkpointing=true", "train.compile=true"])
def test_how_a_step_is_computed_changes_roundings_alone(run, tmp_path, nano, option):
    if "compile" in option and not (shutil.which("cc") or shutil.which("gcc")):
        pytest.skip("torch.compile needs a C compiler")
    plain = trained(run, tmp_path / "plain", nano, *ON_CARD, "trainer.precision=32-true")
    other = trained(run, tmp_path / "other", nano, *ON_CARD, "trainer.precision=32-true", option)
    assert apart(other, plain) < APART["32-true"]


def test_an_image_does_not_depend_on_the_size_of_its_batch(run, tmp_path: Path):
    for size in (1, 3):
        (tmp_path / str(size)).mkdir()
        options = ["method=frozen", *TINY, *ON_CARD, f"generate.batch_size={size}"]
        assert run("generate", *options, folder=tmp_path / str(size)).code == 0
    assert (images(tmp_path / "1") - images(tmp_path / "3")).abs().mean() < 2, "grey levels"


def test_memory_that_runs_out_is_one_line_that_says_what_to_lower(run, tmp_path: Path):
    """With a batch that a card of 2 GB does not hold."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2e9 / torch.cuda.get_device_properties(CARD).total_memory, CARD)
    large = ["base.image_size=64", "train.sar.batch_size=4096", "train.micro_batch=4096"]
    try:
        done = run("train", *LORA, *ON_CARD, *large)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, CARD)
    assert done.code == 1
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert "memory" in line and "train.micro_batch=2048" in line
    assert not list(tmp_path.glob("logs/store/adapter/*/card.json"))


def test_what_is_killed_goes_on_from_its_checkpoint(tmp_path: Path, nano: Base):
    options = ["train", *LORA, *ON_CARD, "trainer.precision=32-true"]
    assert run_killable(tmp_path / "whole", options) == 0
    moments = int((tmp_path / "whole/count").read_text())
    assert run_killable(tmp_path / "killed", options, moments * 2 // 3) == -9
    assert run_killable(tmp_path / "killed", options) == 0
    ours, theirs = (updates(tmp_path / name / "logs/store", nano) for name in ("killed", "whole"))
    assert apart(ours, theirs) < APART["32-true"]


# --- Several cards ----------------------------------------------------------------------------------------------------


def on_the_second(folder: Path) -> None:
    """Train and generate on card 1; card 0 is not touched."""
    os.chdir(folder)
    sys.argv = ["generate.py", "method=lora", *TINY, *ON_CARD, "trainer.devices=[1]"]
    cli.main("generate")
    assert torch.cuda.max_memory_allocated(0) == 0
    assert torch.cuda.max_memory_allocated(1) > 0


@two_cards
def test_everything_is_on_the_card_that_was_asked_for(tmp_path: Path):
    assert processes.run(on_the_second, tmp_path) == 0


@two_cards
def test_two_cards_learn_what_one_does(run, tmp_path: Path, nano: Base):
    one = trained(run, tmp_path / "one", nano, *ON_CARD, "trainer.precision=32-true")
    (tmp_path / "two").mkdir()
    both = ["trainer=ddp", "trainer.accelerator=gpu", "trainer.devices=2", "trainer.precision=32-true", "logger=none"]
    done = subprocess.run(  # as a person does
        [sys.executable, str(ROOT / "train.py"), *LORA, *both],
        cwd=tmp_path / "two",
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert apart(updates(tmp_path / "two/logs/store", nano), one) < APART["32-true"]
