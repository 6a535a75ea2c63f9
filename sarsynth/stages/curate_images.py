"""Decide which images a study believes: leave bad ones out, join what is one picture, refuse what is held out.

All training images of every stage come from `training`: those of adapters, classifier, prototypes, contours, ControlNet
and base.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.panel import Panel
from rich.text import Text

from sarsynth.classifier.added_images import Added, added_per_class
from sarsynth.console import console
from sarsynth.data.curated import Curated, Pair
from sarsynth.data.duplicates import groups
from sarsynth.data.records import SPLITS, ImageRecord, Source, Split, class_counts, deci, minor_classes
from sarsynth.errors import UserError
from sarsynth.report.terminal import counts_table
from sarsynth.stages.open_images import SLOTS, Role, image_settings, listed, near_paths, opened, scan_of, scanned
from sarsynth.stages.study import Study, first, once

COPY = 0.97  # agreement from which on two images are one picture in two encodings; see `guard`
SHOWN = 5  # names on the screen; files have them all


# --- The sets as a study uses them ------------------------------------------------------------------------------------


@once
def source(study: Study, role: Role) -> Source:
    """A set without its bad images, which are named, with groups that pixels show."""
    original, scan = opened(study)[role], scan_of(study, role)
    say_bad(SLOTS[role], scan.bad, scanned(study, role).path)
    near = [(first, second) for first, second, _ in near_paths(study, role)]
    try:
        curated = Curated(original, scan.bad, groups(listed(original), near))
    except UserError as error:
        raise UserError(f"{SLOTS[role]}.{error}") from error
    _check_emptied(SLOTS[role], original, curated, scan.bad)
    return curated


def _check_emptied(slot: str, original: Source, curated: Source, bad: Mapping[str, str]) -> None:
    """Refuse a set in which a class has bad images alone: it would be learnt from nothing, or tested on nothing.

    Raises:
        UserError: Names the class, and one of its images.
    """
    for split in SPLITS:
        left = {record.label for record in curated.records(split)}
        for record in original.records(split):
            if record.path in bad and record.label not in left:
                raise UserError(
                    f"{slot}: all {split} images of class {original.classes[record.label]} are bad ({record.path}: "
                    f"{bad[record.path]}); mend them, or leave the class out"
                )


def records(study: Study, role: Role, split: Split) -> list[ImageRecord]:
    """List a split of one set.

    Raises:
        UserError: It is empty, or too many images of the set are bad.
    """
    images = source(study, role).records(split)
    check_bad(study, role)
    if not images:
        key = SLOTS[role]
        raise UserError(f"{key}: no {split} images; set {key}.{split} to a folder, a list file or a fraction")
    return images


@once
def training(study: Study, role: Role) -> list[ImageRecord]:
    """The images of a set that are trained on; those of the SAR set are of the study's split.

    Raises:
        UserError: There are none, too many are bad, or some are held out.
    """
    images = _split(study) if role == "sar" else records(study, role, "train")
    say_across(study, role)
    return guard(study, role, images)


def _split(study: Study) -> list[ImageRecord]:
    """The SAR training images of the study's split; a table says how many images each split has."""
    data, whole = study.settings.data, records(study, "sar", "train")
    images = deci(whole, data.deci_seed) if data.split == "deci" else whole
    held_out = {split: source(study, "sar").records(split) for split in ("val", "test")}
    splits = {"train": whole, data.split: images} | held_out
    say_counts(study, "sar", {name: class_counts(of, classes(study)) for name, of in splits.items() if of}, data.split)
    return images


def classes(study: Study) -> list[str]:
    """Names of the SAR classes, by label."""
    return source(study, "sar").classes


@once
def counts(study: Study) -> dict[str, int]:
    """SAR training images of each class."""
    return class_counts(training(study, "sar"), classes(study))


@once
def minor(study: Study) -> list[str]:
    """The classes that the study is to help."""
    return minor_classes(counts(study), study.settings.data.minor)


@once
def planned(study: Study) -> dict[str, Added]:
    """Images that are to join each class, with a method that makes synthetic ones."""
    augment = study.settings.augment
    return added_per_class(augment.plan, counts(study), minor(study), augment.share, augment.classes)


def joining(study: Study) -> dict[str, int]:
    """Images that join each class with any method that adds some."""
    return {name: added.total for name, added in planned(study).items()}


def synthetic_sizes(study: Study) -> dict[str, int]:
    """Images of each class in a synthetic set: as many as asked for, more where more are to join."""
    return {name: max(study.settings.generate.per_class, added.synthetic) for name, added in planned(study).items()}


def say_counts(study: Study, role: Role, by_split: Mapping[str, dict[str, int]], trained_on: str) -> None:
    """Print, once a run, how many images of each class a set has in each split.

    Args:
        study: Whose set.
        role: Which set.
        by_split: Images of each class, for each split.
        trained_on: The split whose counts decide which SAR classes are minor.
    """
    if study.planning or not by_split or not first(study, "counts", role):
        return
    sar = role == "sar" and trained_on in by_split
    starred = minor_classes(by_split[trained_on], study.settings.data.minor) if sar else []
    title = f"Images of {SLOTS[role]}={image_settings(study, role).name}" + ", * for the minor classes" * bool(starred)
    console.print(counts_table(by_split, starred, title))


# --- Bad images and near-duplicates -----------------------------------------------------------------------------------


def check_bad(study: Study, role: Role) -> None:
    """Stop where too many images of a set are bad.

    Raises:
        UserError: More than `max_bad` of them are.
    """
    scan, slot, limit = scan_of(study, role), SLOTS[role], image_settings(study, role).max_bad
    if len(scan.bad) > limit * len(scan.paths):
        path, reason = next(iter(scan.bad.items()))
        raise UserError(
            f"{slot}.max_bad={limit:g}: {len(scan.bad)} of {len(scan.paths)} images are bad ({path}: {reason}); mend "
            "them, or raise it and go on without them; python train.py stage=data shows all"
        )


def say_bad(slot: str, bad: Mapping[str, str], folder: Path) -> None:
    """Print which images are left out and why."""
    if not bad:
        return
    lines = [f"  {path}: {reason}" for path, reason in list(bad.items())[: 2 * SHOWN]]
    if len(bad) > len(lines):
        lines.append(f"  and {len(bad) - len(lines)} more, all in {folder}")
    console.print(f"[yellow]warning:[/] {slot}: left out, {len(bad)} bad images")
    say("\n".join(lines))


def say(text: str, *before: str) -> None:
    """Print names of files as they are, even those that are not UTF-8, after what may have markup."""
    console.print(*before, Text(text.encode("utf-8", "backslashreplace").decode()))


def pairs(study: Study, role: Role) -> list[Pair]:
    """List the good images of a set that show one picture."""
    by_path = {record.path: record for record in listed(source(study, role))}
    return [Pair(by_path[first], by_path[second], agreement) for first, second, agreement in near_paths(study, role)]


def say_across(study: Study, role: Role) -> None:
    """Print, in one line, how many images of given splits show one picture, and note it for the result."""
    crossing = [pair for pair in pairs(study, role) if pair.crosses]
    study.crossing[SLOTS[role]] = len(crossing)
    if crossing:
        names = [f"{p.one.path} ({p.one.split}) and {p.other.path} ({p.other.split})" for p in crossing]
        text = f"{SLOTS[role]}: {len(crossing)} pairs of near-duplicates across its splits: {some(names)}"
        say(text, "[yellow]warning:[/]")


def some(names: Sequence[str]) -> str:
    """Name the first few, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f", and {more} more" if more > 0 else "")


# --- Held-out images --------------------------------------------------------------------------------------------------


def samples(study: Study, role: Role, images: Sequence[ImageRecord]) -> dict[str, Any]:
    """Say for a card which samples these are: by digest of their pixels, whatever they are called."""
    scan = scan_of(study, role)
    by_split = {split: [record for record in images if record.split == split] for split in SPLITS}
    return {
        scan.digest(chosen): {
            "set": SLOTS[role],
            "data": image_settings(study, role).name,
            "split": split,
            "count": len(chosen),
            "scan": scanned(study, role).fingerprint,
        }
        for split, chosen in by_split.items()
        if chosen
    }


def held_out(study: Study, role: Role) -> Iterator[tuple[Role, ImageRecord]]:
    """Yield the images that nothing may learn from: of the SAR set, and of the set in question."""
    owners: list[Role] = ["sar", role] if role != "sar" else ["sar"]
    for owner in owners:
        for split in SPLITS[1:]:
            yield from ((owner, record) for record in source(study, owner).records(split))


def guard(study: Study, role: Role, images: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Let images pass that something is to learn from, if none of them is a validation or test image.

    Two images are one if their pixels are, in whichever sets they lie; or, within one set, if their fine structure
    agrees at `COPY`: compressed, brightened or shifted, it is still the same recording. Two looks at one ship are no
    such copy, however alike: each has speckle of its own, and no two of MSTAR's 5,171 chips, many of one vehicle at
    almost one azimuth, reach even 0.9. Between 0.9 and `COPY` lie e.g. overlapping chips of one scene, which a data set
    may have in two of its splits for good reasons: `say_across` counts them, and the result has the number.

    Raises:
        UserError: Some are, and `data.allow_leak` is false.
    """
    scan = scan_of(study, role)
    held = {
        scan.content(pair.one): f"as good as {pair.other.split} image {pair.other.path} (agreement {pair.agreement:g})"
        for near in pairs(study, role)
        for pair in (near, Pair(near.other, near.one, near.agreement))
        if pair.crosses and pair.one.split == "train" and pair.agreement >= COPY
    }
    held |= {
        scan_of(study, owner).content(record): f"{record.split} image {record.path} of {SLOTS[owner]}"
        for owner, record in held_out(study, role)
    }
    contents = [(record.path, scan.content(record)) for record in images]
    leak(study, SLOTS[role], [(path, held[content]) for path, content in contents if content in held])
    return list(images)


def leak(study: Study, slot: str, leaking: Sequence[tuple[str, str]]) -> None:
    """Stop for held-out images among those that are learnt from, or note them where that is allowed.

    Args:
        study: Whose result says so.
        slot: The key of the set that they are in.
        leaking: Name of each, and which held-out image it is.
    """
    if not leaking:
        return
    names = some([f"{path} is {other}" for path, other in leaking])
    if not study.settings.data.allow_leak:
        raise UserError(
            f"{slot}: {len(leaking)} of what is learnt from are held out: {names}; remove them from one side, "
            "or say data.allow_leak=true, which every result will tell"
        )
    study.leaks[slot] = {"count": len(leaking), "samples": [list(pair) for pair in leaking]}
    text = f"{slot}: {len(leaking)} held-out samples are learnt from: {names}"
    text = text.encode("utf-8", "backslashreplace").decode()
    console.print(Panel(Text(text), title="LEAK (data.allow_leak=true): scores are no measure", style="bold red"))
