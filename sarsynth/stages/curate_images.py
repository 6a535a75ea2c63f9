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
from sarsynth.data.file_source import FileSource
from sarsynth.data.records import SPLITS, ImageRecord, Split, class_counts, deci, first_of_classes, minor_classes
from sarsynth.errors import LeakError, UserError, nearest
from sarsynth.program import command
from sarsynth.report.image_health import NEXT_STEP
from sarsynth.report.terminal import counts_table
from sarsynth.stages.open_images import (
    CAPTIONED,
    SLOTS,
    Role,
    image_settings,
    listed,
    near_paths,
    opened,
    scan_of,
    scanned,
)
from sarsynth.stages.study import Study, first, once

COPY = 0.97  # agreement from which on two images are one picture in two encodings; see `guard`
FEW = 5  # test images of a class, below which their scores say little
SHOWN = 5  # names on the screen; files have them all


# --- The sets as a study uses them ------------------------------------------------------------------------------------


@once
def source(study: Study, role: Role) -> Curated:
    """A set without its bad images, which are named, with groups that pixels show."""
    original, scan = opened(study)[role], scan_of(study, role)
    say_bad(SLOTS[role], scan.bad, scanned(study, role).path)
    near = [(first, second) for first, second, _ in near_paths(study, role)]
    left_out = listed_to_leave_out(study, role)
    try:
        return Curated(original, scan.bad.keys() | left_out, groups(listed(original), near))
    except UserError as error:
        raise UserError(f"{SLOTS[role]}.{error}") from error


def records(study: Study, role: Role, split: Split) -> list[ImageRecord]:
    """List a split of one set.

    Raises:
        UserError: It is empty, or too many images of the set are bad, or all of a class are.
    """
    images = source(study, role).records(split)
    check_bad(study, role)
    check_emptied(study, role)
    if not images:
        key = SLOTS[role]
        raise UserError(f"{key}: no {split} images; set {key}.{split} to a folder, a list file or a fraction")
    return images


@once
def training(study: Study, role: Role) -> list[ImageRecord]:
    """The images of a set that are trained on; those of the SAR set are of the study's split.

    Raises:
        UserError: There are none, too many are bad, some are held out, or a minor class has fewer than `minor_images`.
    """
    images = _split(study) if role == "sar" else records(study, role, "train")
    say_two_labels(study, role)
    say_across(study, role)
    images, data = guard(study, role, images), study.settings.data
    if role != "sar" or data.minor_images is None:
        return images
    few = minor_classes(class_counts(images, classes(study)), data.minor)
    say(f"data.minor_images={data.minor_images}: so many of {', '.join(few)} are trained on")
    return first_of_classes(images, classes(study), few, data.minor_images, data.minor_seed)


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
    drawn = {name: count for name, count in by_split.get("test", {}).items() if 0 < count < FEW}
    if drawn and any(record.drawn for record in source(study, role).records("test")):
        few = ", ".join(f"{name} {count}" for name, count in drawn.items())
        say(f"{SLOTS[role]}.test draws few test images: {few}; scores of them say little", "[yellow]warning:[/]")
    say_seen(study, role)


def say_seen(study: Study, role: Role) -> None:
    """Print which files of a set were passed over and why, how others were taken, and what was done to pixels."""
    original, slot = opened(study)[role], SLOTS[role]
    if isinstance(original, FileSource) and (passed := original.seen.passed_over):
        total = len(original.files.union(*passed.values()))
        say(f"{slot}: {total:,} files seen, {len(original.files):,} used; passed over:")
        for reason, files in passed.items():
            say(f"  {len(files):,} {reason}: {some(files)}")
    if isinstance(original, FileSource):
        for remark in original.seen.remarks:
            say(f"{slot}: {remark}")
        texts = sum(record.text is not None for record in listed(original))
        if texts and role in CAPTIONED and "{text}" not in str(study.settings.wording(CAPTIONED[role])):
            say(f"{slot}: {texts:,} images have texts; '{slot}.prompt=\"{{text}}\"' makes captions of them")
    for note, paths in scan_of(study, role).noted.items():
        say(f"{slot}: {note} ({len(paths):,} images, e.g. {paths[0]})")


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
            f"them, or raise it and go on without them; {command('train', 'stage=data')} shows all"
        )


@once
def listed_to_leave_out(study: Study, role: Role) -> set[str]:
    """The images that a file of one's own lists to be left out.

    Raises:
        UserError: There is no such file, or it names what is no image of the set.
    """
    name, slot = image_settings(study, role).leave_out, SLOTS[role]
    if name is None:
        return set()
    file = Path(name).expanduser()
    if not file.is_file():
        raise UserError(f"{slot}.leave_out={name}: no such file")
    known = {record.path for record in listed(opened(study)[role])}
    left_out = set()
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="surrogateescape").split("\n"), start=1):
        path = line.removesuffix("\r")  # a name may end in spaces, and may be no UTF-8
        if path and path not in known:
            raise UserError(f"{file}, line {number}: no image {path} in {slot}; {nearest(path, known)}")
        left_out.update([path] if path else [])
    say(f"{slot}: {len(left_out)} images are left out, as {name} says")
    return left_out


def check_emptied(study: Study, role: Role) -> None:
    """Stop where a class has images in a split, and all of them are bad or left out.

    Raises:
        UserError: There is such a class.
    """
    images, slot = source(study, role), SLOTS[role]
    for split, names in images.emptied.items():
        bad = scan_of(study, role).bad
        path, reason = next(iter((path, bad[path]) for path in names.values() if path in bad), (None, ""))
        why = f"are bad ({path}: {reason}); mend them" if path else "are left out; give it others"
        raise UserError(f"{slot}: all {split} images of class {next(iter(names))} {why}, or remove the class")


def say_bad(slot: str, bad: Mapping[str, str], folder: Path) -> None:
    """Print which images are left out and why."""
    if not bad:
        return
    told = [f"  {path}: {reason}" for path, reason in list(bad.items())[: 2 * SHOWN]]
    if len(bad) > len(told):
        told.append(f"  and {len(bad) - len(told)} more, all in {folder}")
    console.print(f"[yellow]warning:[/] {slot}: left out, {len(bad)} bad images")
    say("\n".join(told))


def say(text: str, *before: str) -> None:
    """Print names of files as they are, even those that are not UTF-8, after what may have markup."""
    console.print(*before, Text(text.encode("utf-8", "backslashreplace").decode()))


def pairs(study: Study, role: Role) -> list[Pair]:
    """List the good images of a set that show one picture."""
    by_path = {record.path: record for record in listed(source(study, role))}
    return [
        Pair(by_path[first], by_path[second], agreement)
        for first, second, agreement in near_paths(study, role)
        if first in by_path and second in by_path  # which may be left out
    ]


def contradictions(study: Study, role: Role) -> list[Pair]:
    """Pairs of images of a set that are one recording under two labels."""
    return [p for p in pairs(study, role) if p.one.label != p.other.label and p.agreement >= COPY]


def say_two_labels(study: Study, role: Role) -> None:
    """Print, in one line, which pictures have two labels, and what to do about it."""
    if not (found := contradictions(study, role)):
        return
    names, slot = source(study, role).classes, SLOTS[role]
    told = [f"{p.one.path} ({names[p.one.label]}) and {p.other.path} ({names[p.other.label]})" for p in found]
    text = f"{slot}: same picture, two labels, {len(found)} times: {some(told)}; {NEXT_STEP.format(slot)}"
    say(text, "[yellow]warning:[/]")


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
    scan, dropped = scan_of(study, role), study.dropped.get(SLOTS[role])
    by_split = {split: [record for record in images if record.split == split] for split in SPLITS}
    return {
        scan.digest(chosen): {
            "set": SLOTS[role],
            "data": image_settings(study, role).name,
            "split": split,
            "count": len(chosen),
            "scan": scanned(study, role).fingerprint,
        }
        | ({"left_out": dropped["count"]} if dropped and split == "train" else {})
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
    """Let images pass that something is to learn from, if they are no validation or test images.

    Two images are one if their pixels are, in whichever sets they lie; or, within one set, if their fine structure
    agrees at `COPY`: compressed, brightened or shifted, it is still the same recording. Two looks at one ship are no
    such copy, however alike: each has speckle of its own, and no two of MSTAR's 5,171 chips, many of one vehicle at
    almost one azimuth, reach even 0.9. Between 0.9 and `COPY` lie e.g. overlapping chips of one scene, which a data set
    may have in two of its splits for good reasons: `say_across` counts them, and the result has the number.

    Raises:
        LeakError: Some are, and the settings neither leave them out nor allow them.
        UserError: A class would have no image left.
    """
    leaking = leaking_of(study, role, images)
    dropped = leak(study, SLOTS[role], leaking)
    left = [record for record in images if record.path not in dropped]
    emptied = {record.label for record in images} - {record.label for record in left}
    if emptied:
        name = source(study, role).classes[min(emptied)]
        raise UserError(
            f"data.leak=drop: all training images of class {name} of {SLOTS[role]} are held out; give it others, "
            "or remove it"
        )
    return left


def leaking_of(study: Study, role: Role, images: Sequence[ImageRecord]) -> list[tuple[str, str]]:
    """Name the images among these that are held out, and say of each which held-out image it is."""
    scan = scan_of(study, role)
    own = {scan.content(record): record for owner, record in held_out(study, role) if owner == role}
    # By content: of images with the same pixels one alone is compared with others, and that one may be left out.
    near = [
        (scan.contents[scan.rows[path]], scan.contents[scan.rows[other]], agreement)
        for first, second, agreement in near_paths(study, role)
        for path, other in ((first, second), (second, first))
        if agreement >= COPY
    ]
    held = {
        content: f"as good as {own[other].split} image {own[other].path} (agreement {agreement:g})"
        for content, other, agreement in near
        if other in own
    }
    held |= {
        scan_of(study, owner).content(record): f"{record.split} image {record.path} of {SLOTS[owner]}"
        for owner, record in held_out(study, role)
    }
    contents = [(record.path, scan.content(record)) for record in images]
    return [(path, held[content]) for path, content in contents if content in held]


def leak(study: Study, slot: str, leaking: Sequence[tuple[str, str]]) -> set[str]:
    """Stop for held-out images among those that are learnt from, or leave them out, or note them, as settings say.

    Args:
        study: Whose result says so.
        slot: The key of the set that they are in.
        leaking: Name of each, and which held-out image it is.

    Returns:
        The names of those to leave out.

    Raises:
        LeakError: There are some, and the settings refuse them.
    """
    if not leaking:
        return set()
    names = some([f"{path} is {other}" for path, other in leaking])
    told = {"count": len(leaking), "samples": [list(pair) for pair in leaking]}
    if study.settings.data.leak == "drop":
        study.dropped[slot] = told
        say(f"{slot}: data.leak=drop leaves {len(leaking)} held-out samples out of training: {names}")
        return {path for path, _ in leaking}
    if not study.settings.data.allow_leak:
        raise LeakError(
            f"{slot}: {len(leaking)} of what is learnt from are held out: {names}; say data.leak=drop to learn without "
            f"them ({command('train', 'stage=data')} lists them), or data.allow_leak=true, which every result will tell"
        )
    study.leaks[slot] = told
    text = f"{slot}: {len(leaking)} held-out samples are learnt from: {names}"
    text = text.encode("utf-8", "backslashreplace").decode()
    console.print(Panel(Text(text), title="LEAK (data.allow_leak=true): scores are no measure", style="bold red"))
    return set()
