"""The stages from Python: the page about them runs, and makes what the scripts make."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sarsynth import api
from sarsynth.config.hydra_internals import as_override, parse_override
from sarsynth.diffusion import adapter_files
from sarsynth.errors import UserError
from sarsynth.sim import render

PAGE = Path(__file__).parents[1] / "docs/python.md"
NAMES = ("cargo", "fishing", "tanker")


def draw(folder: Path, per_class: int, seed: int) -> None:
    """Put simulated chips into a folder per class."""
    for name in NAMES:
        (folder / name).mkdir(parents=True)
        for index in range(per_class):
            Image.fromarray(render(seed, index, name, "sar", 32).pixels[..., 0]).save(folder / name / f"{index}.png")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What the page's examples leave, run in their order in a folder with images."""
    folder = tmp_path_factory.mktemp("notebook")
    draw(folder / "my_sar_images/train", 6, 0)
    draw(folder / "my_sar_images/test", 6, 1)
    draw(folder / "my_aerial_images", 4, 2)
    names: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
            exec(compile(block, str(PAGE), "exec"), names)
        yield names


def test_the_page_runs_and_names_every_function(ran):
    assert ran["images"].shape == (4, 1, 32, 32)
    assert ran["images"].dtype == torch.uint8
    assert not torch.equal(ran["images"], ran["followed"])
    assert ran["gain"].minor_f1.low <= ran["gain"].minor_f1.delta <= ran["gain"].minor_f1.high
    gone = [name for name in api.__all__ if f"api.{name}(" not in PAGE.read_text()]
    assert not gone


def test_it_makes_the_images_that_the_scripts_make(ran):
    study = ran["study"]
    adapters = {"ors": ran["ors"], **ran["sar"]}
    with api.fold(study, [(adapters[name], scale) for name, scale in api.scales(study, "tanker").items()]):
        images = api.sample(study, "tanker", 3, contours=api.class_contours(study, "tanker"))
    stored = [np.asarray(Image.open(file)) for file in sorted((ran["folder"] / "images/tanker").iterdir())]
    np.testing.assert_array_equal(
        images[:, 0], stored[:3]
    )  # contours are shared out in the order of the training images


def test_a_fold_is_undone_and_an_export_is_the_fold(ran):
    study, base = ran["study"], ran["base"]
    before = {name: weight.clone() for name, weight in base.unet.state_dict().items()}
    with api.fold(study, [(adapter_files.load(base.unet, ran["file"]), 1.0)]):
        exported = api.sample(study, "tanker", 2)
    with api.fold(study, [(ran["ors"], 0.9), (ran["sar"]["sar"], 1.0)]):
        stacked = api.sample(study, "tanker", 2)
    assert (exported.int() - stacked.int()).abs().max() <= 1  # a rounding
    assert all(torch.equal(weight, before[name]) for name, weight in base.unet.state_dict().items())
    assert api.sample(study, "tanker", 0).shape == (0, 1, 32, 32)


def test_what_is_wrong_is_one_line(ran):
    study = ran["study"]
    for call, message in (
        (lambda: api.open_study("nowhere"), "data.root=nowhere: no such folder"),
        (lambda: api.open_study(settings={"train.sar.max_step": 3}), "unknown key train.sar.max_step; the nearest is"),
        (lambda: api.open_study(settings={"trainer.devices": 2}), "trainer.devices=2: several processes"),
        (lambda: api.sample(study, "tank"), "class_name=tank: the nearest is tanker"),
        (lambda: api.sample(study, "tanker", contours=[]), "contours: there are none"),
        (lambda: api.score_gain(study, "2lora"), "baseline=2lora is the method itself"),
        (lambda: api.make_images(api.open_study(method="none")), "method=none makes no synthetic images"),
        (lambda: api.train_sar(api.open_study(method="finetune")), "method=finetune has no adapters"),
        (lambda: api.sample(api.open_study(), "tanker", contours=[torch.zeros(64, 64)]), "say contours=real"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            call()


def test_values_of_python_are_those_of_the_command_line():
    for value in (3, 0.5, 1e-4, True, None, "a/b c, [d]", 'say "a"', "null", "3", ["a", 1], {"a": 3, "b": [None]}, []):
        override = parse_override(as_override("data.key", value))
        read = override.value()
        plain = read if not isinstance(read, list) else [getattr(part, "text", part) for part in read]
        assert getattr(plain, "text", plain) == value or isinstance(value, dict), value
    assert parse_override(as_override("k", {"a": 3, "b": [None]})).value() == {"a": 3, "b": [None]}
