"""Before the first job of a sweep: whether any of its jobs would learn from held-out images, asked once for all.

Torch-free, as the process that starts the jobs is: another one looks at the images, and ends.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from sarsynth.config.hydra_internals import without_hydra
from sarsynth.config.schema import Settings
from sarsynth.console import console
from sarsynth.errors import LeakError, UserError, one_line

ELSEWHERE = ("adapter.", "train.", "generate.", "classifier.", "prototypes.", "sampler", "evaluate.")  # not of images
SIMULATED = "sarsynth.data.simulated.Simulated"  # where no image is there twice

Job = tuple[Settings, Sequence[str]]  # settings and overrides


def leaks_of(jobs: Sequence[Job]) -> dict[str, list[int]]:
    """Look at the images that jobs learn from as a plan does, which surveys images and makes nothing else.

    Args:
        jobs: Settings and overrides of each.

    Returns:
        Why jobs would stop, and the numbers of those that would.
    """
    alike: dict[tuple[str, ...], list[int]] = {}  # numbers of jobs by what they say of images
    for number, (_, overrides) in enumerate(jobs):
        of_images = sorted(override for override in overrides if not override.lstrip("+~").startswith(ELSEWHERE))
        alike.setdefault(tuple(of_images), []).append(number)
    asked = [jobs[numbers[0]] for numbers in alike.values()]
    if all(images.reader.target == SIMULATED for job, _ in asked for images in (job.data, job.ors)):
        return {}
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        messages = pool.submit(_leaks, asked).result()
    found: dict[str, list[int]] = {}
    for message, numbers in zip(messages, alike.values(), strict=True):
        if message:
            found[message] = sorted([*found.get(message, []), *numbers])
    return found


def _leaks(jobs: Sequence[Job]) -> list[str]:
    """Say why each job would stop for held-out images; nothing if it would not, or for another reason."""
    from sarsynth.commands.session import quieten

    quieten()
    return [_leak(*job) for job in jobs]


def _leak(settings: Settings, overrides: Sequence[str]) -> str:
    from sarsynth.stages.curate_images import training
    from sarsynth.stages.study import Study
    from sarsynth.store.building import made_line
    from sarsynth.tracking import Tracker

    study = Study(settings.model_copy(update={"build": "plan"}), Tracker(None), without_hydra(overrides))
    console.quiet, message = True, ""  # what there is to say of the images, the jobs say
    try:
        training(study, "sar")
        if settings.method.below or "ors" in settings.contours.sources:
            training(study, "ors")
    except LeakError as error:
        message = one_line(error)
    except UserError:
        pass  # the job itself says what is wrong with it, and takes no other with it
    console.quiet = False
    for survey in [artifact for artifact, made in study.store.met.items() if made]:
        console.print(made_line(survey))
    return message
