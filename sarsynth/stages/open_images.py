"""Open the image sets of a study, and look at every image once: size, hashes, what is bad, what shows one picture."""

import json
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from sarsynth.classifier.added_images import check_plan
from sarsynth.config.checks import image_sets
from sarsynth.config.components import Component
from sarsynth.config.image_sections import Encoded, ImageSet, Slot
from sarsynth.config.second_set import KEY
from sarsynth.console import progress
from sarsynth.data.class_names import check_name
from sarsynth.data.duplicates import AGREEMENT, HASHES, near_duplicates
from sarsynth.data.health import FORM, Scan, scan
from sarsynth.data.records import SPLITS, ImageRecord, Source, minor_classes
from sarsynth.errors import UserError, nearest
from sarsynth.stages.study import Study, once
from sarsynth.store.artifacts import Artifact
from sarsynth.store.costs import Work

# What an image set is for; regular ones are ordinary photographs, and classifiers are also scored on the last one.
Role = Literal["sar", "ors", "regular", "also"]
CAPTIONED: dict[Role, Slot] = {"sar": "data", "ors": "ors", "regular": "regular"}  # sets for training, by their key
SLOTS: dict[Role, str] = {**CAPTIONED, "also": KEY}  # the key of each in the settings
LOOKED_AT_BY: dict[Role, tuple[str, ...]] = {  # what asks for each: a script, and the stage of it
    "sar": ("train", "stage=data"),
    "ors": ("train", "stage=data"),
    "regular": ("train", "stage=controlnet"),
    "also": ("evaluate",),
}
NEAR = "near.json"


def image_settings(study: Study, role: Role) -> ImageSet:
    """The settings of an image set, which is among those of the study."""
    return attrgetter(SLOTS[role])(study.settings)


def flip(study: Study, role: Role) -> str:
    """Along which axis mirror images join those of a set."""
    images = image_settings(study, role)
    return images.flip if isinstance(images, Encoded) else "none"


@once
def opened(study: Study) -> dict[Role, Source]:
    """All image sets as they are.

    Raises:
        UserError: The settings name a class that the SAR set has not; said before any image is looked at.
    """
    sets = image_sets(study.settings)
    sources = {role: built(slot, sets[slot].reader) for role, slot in SLOTS.items() if slot in sets}
    for role, source in sources.items():
        for name in source.classes:
            check_name(name, SLOTS[role])
    settings, none = study.settings, dict.fromkeys(sources["sar"].classes, 0)
    minor_classes(none, settings.data.minor)
    check_plan(settings.augment.plan, none)
    if settings.class_name is not None and settings.class_name not in none:
        raise UserError(f"class_name={settings.class_name}: {nearest(settings.class_name, none)}")
    return sources


def built(key: str, component: Component) -> Any:
    """Build what one key of the settings names; what it refuses is told with the full key."""
    try:
        component.check_kind()
        return component.build()
    except UserError as error:
        option, given, _ = str(error).partition("=")
        full = f"{key}.{error}" if given and option in {"_target_", *component.options} else f"{key}: {error}"
        raise UserError(full) from error
    except OSError as error:
        raise UserError(f"{key}: {error.filename}: {error.strerror}; see its permissions") from error


@once
def content(study: Study, role: Role) -> str:
    """Hash what lies in a set, whatever its radiometry."""
    return opened(study)[role].fingerprint()


def listed(source: Source) -> list[ImageRecord]:
    """All images of a set, split after split."""
    return [record for split in SPLITS for record in source.records(split)]


@once
def scanned(study: Study, role: Role) -> Artifact:
    """Open every image of a set once and keep what it was found to be."""
    source, name = opened(study)[role], image_settings(study, role).name
    records = listed(source)

    def build(folder: Path) -> None:
        with progress(f"looking at {role.upper()} images", len(records)) as advance:
            scan(source, records, advance).save(folder)

    return study.make(
        "cache",
        f"{name}-{role}-scan",
        {"source": content(study, role), "paths": [record.path for record in records], "form": FORM},
        {},
        build,
        command=LOOKED_AT_BY[role],
        work=Work("scan", "images", len(records), {"data": name}),
        survey=True,
    )


@once
def scan_of(study: Study, role: Role) -> Scan:
    """What every image of a set was found to be."""
    return Scan.load(scanned(study, role).path)


@once
def paired(study: Study, role: Role) -> Artifact:
    """Find the images of a set that show one picture."""
    looked, images = scanned(study, role), image_settings(study, role)

    def build(folder: Path) -> None:
        (folder / NEAR).write_text(json.dumps(near_duplicates(scan_of(study, role), images.near_bits)))

    return study.make(
        "cache",
        f"{images.name}-{role}-near",
        {"bits": images.near_bits, "hashes": HASHES, "agreement": AGREEMENT},
        {"scan": looked},
        build,
        command=LOOKED_AT_BY[role],
        work=Work("near-duplicates", "images", len(scan_of(study, role).paths), {"data": images.name}),
        survey=True,
    )


def near_paths(study: Study, role: Role) -> list[tuple[str, str, float]]:
    """The paths of each two images of a set that show one picture, and how well they agree: 1 for the same pixels."""
    paths = scan_of(study, role).paths
    rows = json.loads((paired(study, role).path / NEAR).read_text())
    return [(paths[first], paths[second], agreement) for first, second, agreement in rows]
