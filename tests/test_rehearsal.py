"""What a run refuses before it reads any data, since only the libraries know."""

import pytest
import torch
from test_conf import settings

from sarsynth.commands.preflight import rehearse
from sarsynth.errors import UserError

REFUSED = [
    (["classifier.network=resnet51"], "classifier.network=resnet51 is not a model of timm; the nearest is resnet51q"),
    (
        ["classifier.network=mobilenetv3_small_050"],
        "classifier.network=mobilenetv3_small_050 with classifier.options=.*'layers'; .*~classifier.options.NAME",
    ),
    (["+classifier.options.foo=1"], "classifier.network=resnet18 with classifier.options=.*'foo'"),
    (
        [
            "classifier.network=vit_tiny_patch16_224",
            *(f"~classifier.options.{key}" for key in ("layers", "channels", "stem_type", "stem_width")),
        ],
        r"image_size=64: .*Input height \(64\)",
    ),
    (["sampler._target_=diffusers.UNet2DConditionModel"], "diffusers.UNet2DConditionModel, .*it is no noise scheduler"),
    (["sampler._target_=diffusers.FlowMatchEulerDiscreteScheduler"], "sampler._target_=.*init_noise_sigma"),
    (
        ["sampler._target_=diffusers.PNDMScheduler", "generate.num_inference_steps=2"],
        "sampler._target_=diffusers.PNDMScheduler, generate.num_inference_steps=2: ",
    ),
]


@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=[" ".join(overrides) for overrides, _ in REFUSED])
def test_what_a_library_refuses_is_one_line_that_names_the_key(overrides, message):
    with pytest.raises(UserError, match=message) as refusal:
        rehearse(settings(*overrides))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("sampler", ["dpm", "ddim", "euler"])
def test_a_rehearsal_leaves_random_numbers_alone(sampler):
    before = torch.random.get_rng_state()
    rehearse(settings(f"sampler={sampler}", "classifier=resnet50", "classifier.pretrained=false"))
    assert torch.equal(before, torch.random.get_rng_state())
