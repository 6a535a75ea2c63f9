"""What a run does before it makes anything: build what the settings name, so that nothing is refused after hours."""

from contextlib import suppress
from difflib import get_close_matches

import psutil
import timm
import torch
from diffusers import DDPMScheduler
from torch import nn

from sarsynth.classifier import pretrained
from sarsynth.config.checks import components
from sarsynth.config.schema import Settings
from sarsynth.diffusion.sampling import solve
from sarsynth.errors import NotFetchedError, UserError, one_line
from sarsynth.training.memory import least_of_forward


def rehearse(settings: Settings, script: str = "evaluate") -> None:
    """Build classifier and noise scheduler once, without data; find the weights that a classifier starts from.

    Raises:
        UserError: A class is not what its key is for, one of the libraries refuses a value, or there are no such
            weights; the message names the key.
    """
    for key, component, *_ in components(settings):
        try:
            component.check_kind()
        except UserError as error:
            raise UserError(f"{key}.{error}") from error
    network = check_network(settings)
    check_sampler(settings)
    if trains_classifier(settings, script):
        chosen, fetch = settings.classifier, settings.build != "plan"
        with suppress(NotFetchedError):
            if weights := pretrained.find(chosen.network, chosen.pretrained, fetch=fetch):
                pretrained.load_weights(network, weights, channels=1)


def trains_classifier(settings: Settings, script: str) -> bool:
    """Whether a run rests on a classifier, of its own or of its prototypes."""
    of_prototypes = settings.prototypes.features == "classifier"
    by_stage = {"classifier": True, "prototypes": of_prototypes}
    if script == "train" and settings.stage != "sar":
        return by_stage.get(settings.stage or "", False)
    return script == "evaluate" or (of_prototypes and settings.method.partition == "prototypes")


def check_network(settings: Settings) -> nn.Module:
    """Refuse a network that timm has not, or has not with these options, or not for images of this size.

    Returns:
        The network, for images of one channel.
    """
    chosen = settings.classifier
    key, known = f"classifier.network={chosen.network}", timm.list_models()
    if ":" not in chosen.network and not timm.is_model(chosen.network):  # `hf-hub:...` is not in the registry
        (near,) = get_close_matches(chosen.network, known, n=1, cutoff=0.0)
        raise UserError(f"{key} is not a model of timm; the nearest is {near}")
    try:
        with torch.random.fork_rng(devices=[]):
            network = timm.create_model(chosen.network, in_chans=1, num_classes=2, **chosen.options)
            _check_memory(settings, network)
            with torch.inference_mode():
                network.eval()(torch.zeros(1, 1, chosen.image_size, chosen.image_size))
    except UserError:
        raise
    except Exception as error:  # a constructor of timm's raises almost anything
        raise UserError(
            f"{key} with classifier.options={chosen.options}, image_size={chosen.image_size}: {_told(error)}; options "
            "stay when the network changes: remove one with ~classifier.options.NAME, or choose another network"
        ) from error
    return network


def _check_memory(settings: Settings, network: nn.Module) -> None:
    """Refuse an image size of which one image does not fit this machine, before one is tried."""
    size, memory = settings.classifier.image_size, psutil.virtual_memory().total
    need = least_of_forward(network.eval(), (1, 1, size, size))
    if need > memory:
        raise UserError(
            f"classifier.image_size={size}: one image takes at least {need / 1e9:.1f} GB of memory in "
            f"{settings.classifier.network}, and this machine has {memory / 1e9:.1f} GB; lower it"
        )


def check_sampler(settings: Settings) -> None:
    """Refuse a scheduler that does not turn the base's noise predictions into so many steps, by taking them."""
    chosen, steps = settings.sampler, settings.generate.num_inference_steps
    try:
        solve(
            chosen.from_config(DDPMScheduler().config),
            torch.zeros(1, 1, 8, 8),
            [torch.Generator()],
            steps,
            lambda latents, *_: torch.zeros_like(latents),
        )
    except Exception as error:  # diffusers raises almost anything too, and asks for libraries that are not there
        raise UserError(
            f"sampler._target_={chosen.target}, generate.num_inference_steps={steps}: {_told(error)}; choose another "
            "number of steps, or sampler=dpm"
        ) from error


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"
