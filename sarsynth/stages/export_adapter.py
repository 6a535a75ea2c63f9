"""Export all that a method does to the base for a class as one adapter, and say what other programs show of it."""

import json
from pathlib import Path

from sarsynth.diffusion.adapters import Adapter, concatenate
from sarsynth.diffusion.hub import is_name
from sarsynth.errors import UserError
from sarsynth.stages.curate_images import counts
from sarsynth.stages.describe_images import class_captions
from sarsynth.stages.generate_images import ImageRecipe, image_recipe, negative_prompts
from sarsynth.stages.load_base import base, guidance, loaded_adapter
from sarsynth.stages.study import Study

# What ModelSpec and kohya's trainers call a base, by the width of its text features.
FAMILIES = {768: ("stable-diffusion-v1", "sd_v1"), 1024: ("stable-diffusion-v2", "sd_v2")}
PREDICTIONS = {"v_prediction": "v"}  # by diffusers' word, where ModelSpec has another


def exported(study: Study) -> ImageRecipe:
    """What the images of the method are made with, if that can be one adapter.

    Raises:
        UserError: The method is no stack of adapters.
    """
    if study.settings.method.tunes != "adapter":
        raise UserError(f"method={study.settings.method.name} has no adapters to export; choose another method")
    return image_recipe(study)


def exported_adapter(study: Study, class_name: str) -> Adapter:
    """All that the method does to the base for one class, as one adapter.

    Raises:
        UserError: The method is no stack of adapters.
    """
    recipe = exported(study)
    by_name = recipe.scales[class_name].items()
    return concatenate([(loaded_adapter(study, recipe.adapters[name]), scale) for name, scale in by_name if scale])


def how_to_use(study: Study, class_name: str) -> str:
    """Say what another program needs beside a LoRA file to make the images of its class."""
    leading, side = guidance(study), study.settings.base.image_size
    within = "" if leading.throughout else " from {:.0%} to {:.0%} of the steps".format(*leading.interval)
    negative = negative_prompts(study)[class_name]
    away = f', negative prompt "{negative}"' if negative else ""
    prompt = class_captions(study)[class_name]
    return f'strength 1, prompt "{prompt}"{away}, guidance {leading.scale:g}{within}, {side} x {side} px'


def is_of_hub(study: Study) -> bool:
    """Whether the base is a repository of the hub, and not a folder or a file of this machine."""
    path = study.settings.base.path
    return path is not None and is_name(path) and not Path(path).exists()


def name_of_base(study: Study) -> str:
    """What others know the base as: its name on the hub, else that of its folder or file, else ours."""
    path = study.settings.base.path
    if path is None:
        return study.settings.base.name
    return path if is_of_hub(study) else Path(path).name


def about_adapter(study: Study, class_name: str) -> dict[str, str]:
    """What the header of an exported file says, beside its ranks and hashes.

    Entries are those of kohya's trainers (`ss_*`), which A1111 and ComfyUI's tools show, of ModelSpec 1.0.0, and
    what `how_to_use` says, as numbers.
    """
    settings, model = study.settings, base(study)
    width, side = model.unet.config["cross_attention_dim"], settings.base.image_size
    prediction = str(model.noise_scheduler.config["prediction_type"])
    architecture, version = FAMILIES.get(width, ("latent-diffusion", "other"))
    title = f"{settings.method.name}: {class_name}"
    about = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": title,
        "modelspec.description": f"Synthetic SAR images of {class_name}, by method {settings.method.name} of sarsynth",
        "modelspec.resolution": f"{side}x{side}",
        "modelspec.trigger_phrase": class_captions(study)[class_name],
        "modelspec.usage_hint": how_to_use(study, class_name),
        "modelspec.prediction_type": PREDICTIONS.get(prediction, prediction),
        "modelspec.tags": "SAR, synthetic data",
        "ss_base_model_version": version,
        "ss_sd_model_name": name_of_base(study),
        "ss_output_name": title,
        "ss_resolution": f"({side}, {side})",
        "ss_v2": str(version == "sd_v2"),
        "ss_training_comment": how_to_use(study, class_name),
        "sarsynth.negative_prompt": negative_prompts(study)[class_name],
        "sarsynth.guidance_scale": f"{guidance(study).scale:g}",
        "sarsynth.image_size": str(side),
    }
    if not guidance(study).throughout:
        about["sarsynth.guidance_interval"] = " ".join(f"{share:g}" for share in guidance(study).interval)
    if settings.license:
        about["modelspec.license"] = settings.license
    if settings.adapter.path is None:  # what another's saw is not known
        sizes = counts(study)
        about |= {
            "ss_seed": str(settings.seed),
            "ss_num_train_images": str(sum(sizes.values())),
            "ss_tag_frequency": json.dumps(
                {settings.data.name: {caption: sizes[name] for name, caption in class_captions(study).items()}}
            ),
        }
    return about
