"""Before the first job of a sweep: whether any of its jobs would learn from held-out images, asked once for all."""

from collections.abc import Sequence

from sarsynth.commands.session import quieten
from sarsynth.config.checks import check
from sarsynth.config.composition import compose
from sarsynth.config.schema import Settings
from sarsynth.console import console
from sarsynth.errors import LeakError, UserError, one_line
from sarsynth.stages.curate_images import training
from sarsynth.stages.open_images import Role
from sarsynth.stages.study import Study
from sarsynth.store.building import made_line
from sarsynth.tracking import Tracker

ELSEWHERE = ("adapter.", "train.", "generate.", "classifier.", "prototypes.", "sampler", "evaluate.")  # not of images


def leaks_of(script: str, jobs: Sequence[Sequence[str]]) -> dict[str, list[int]]:
    """Look at the images that jobs learn from as a plan does, which surveys images and makes nothing else.

    Args:
        script: `train`, `generate` or `evaluate`.
        jobs: Overrides of each.

    Returns:
        Why jobs would stop, and the numbers of those that would.
    """
    quieten()
    alike: dict[tuple[str, ...], list[int]] = {}  # numbers of jobs by what they say of images
    for number, overrides in enumerate(jobs):
        of_images = sorted(override for override in overrides if not override.lstrip("+~").startswith(ELSEWHERE))
        alike.setdefault(tuple(of_images), []).append(number)
    found: dict[str, list[int]] = {}
    for numbers in alike.values():
        overrides = jobs[numbers[0]]
        if message := _leak(check(compose(script, list(overrides))), overrides):
            found[message] = sorted([*found.get(message, []), *numbers])
    return found


def _leak(settings: Settings, overrides: Sequence[str]) -> str:
    """Say why a job would stop for held-out images; nothing if it would not, or for another reason."""
    study = Study(settings.model_copy(update={"build": "plan"}), Tracker(None), overrides)
    roles: list[Role] = ["sar"]
    if settings.method.below or "ors" in settings.contours.sources:
        roles.append("ors")
    quiet, console.quiet = console.quiet, True
    message = ""
    try:
        for role in roles:
            training(study, role)
    except LeakError as error:
        message = one_line(error)
    except UserError:
        pass  # the job itself says what is wrong with it, and takes no other with it
    finally:
        console.quiet = quiet
    for survey in [artifact for artifact, made in study.store.met.items() if made]:
        console.print(made_line(survey))
    return message
