"""Inspect the image sets of a study: `python train.py stage=data` writes report.html and health.json."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from sarsynth.data.entries import Seen
from sarsynth.data.file_source import FileSource
from sarsynth.data.health import by_class
from sarsynth.data.records import SPLITS, ImageRecord
from sarsynth.errors import UserError
from sarsynth.files import staged, write_text
from sarsynth.report.health_verdict import findings, verdict
from sarsynth.report.html import REPORT
from sarsynth.report.image_health import HEALTH, Health, page
from sarsynth.report.pictures import evenly
from sarsynth.stages.curate_images import (
    COPY,
    check_bad,
    check_emptied,
    leaking_of,
    listed_to_leave_out,
    pairs,
    say,
    say_across,
    say_counts,
    say_two_labels,
    source,
)
from sarsynth.stages.describe_images import captions_of, keywords_of
from sarsynth.stages.find_contours import outlined
from sarsynth.stages.frame_images import framing
from sarsynth.stages.open_images import CAPTIONED, SLOTS, Role, image_settings, listed, opened, paired, scan_of
from sarsynth.stages.study import Study
from sarsynth.store.artifacts import Artifact

ROLES: tuple[Role, ...] = ("sar", "ors")
GO_ON = ("method=none,resample,lora,2lora,plora", "evaluate.baseline=resample")  # whose question most people have
OUTLINED = 4  # images of a class whose contours are shown


def artifacts(study: Study) -> list[Artifact]:
    """The artifacts that the report reads."""
    near = [paired(study, role) for role in ROLES]
    keywords = [keywords_of(study, role, source(study, role).records("train")) for role in ROLES]
    return [*near, *(artifact for artifact in keywords if artifact)]


def inspect(study: Study, folder: Path) -> Iterator[Path]:
    """Write what the images are; then stop, as any other stage would, if too many are bad."""
    healths = {role: health(study, role, folder) for role in ROLES}
    content = {look.slot: look.plain() | {"verdict": findings(look).plain} for look in healths.values()}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    write_text(folder / HEALTH, _printable(text) + "\n")
    title = f"Health of data={study.settings.data.name} and ors={study.settings.ors.name}"
    said = verdict(list(healths.values()), study.command("evaluate", "-m", *GO_ON))
    write_text(folder / REPORT, _printable(page(list(healths.values()), title, said)))
    for role, look in healths.items():
        say_counts(study, role, look.counts, "train")
    for line in [said.line, *(f"  {reason}" for reason in said.reasons)]:
        say(line)
    for step in said.then:
        say(f"  next: {step.line}")
    yield from (folder / REPORT, folder / HEALTH)
    for role, look in healths.items():
        if look.leaking:
            yield _write_list(study, role, look, folder)
        say_two_labels(study, role)
        say_across(study, role)
        check_bad(study, role)
        check_emptied(study, role)


def _printable(text: str) -> str:
    """Write bytes of file names that are not UTF-8 as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _list_of(role: Role, folder: Path) -> Path:
    return folder / f"leave_out-{SLOTS[role]}.txt"


def _write_list(study: Study, role: Role, look: Health, folder: Path) -> Path:
    """List the training images of a set that are held out, and those that were left out already."""
    file, earlier = _list_of(role, folder), listed_to_leave_out(study, role)
    text = "".join(f"{name}\n" for name in sorted(earlier.union(name for name, _ in look.leaking)))
    with staged(file) as draft:
        draft.write_text(text, encoding="utf-8", errors="surrogateescape")
    say(f"{look.slot}: {len(look.leaking)} training images are held out; without them: {look.remedy}")
    return file


def health(study: Study, role: Role, folder: Path) -> Health:
    """Look at a set, without stopping at bad images: the report is there to show them.

    Args:
        study: Whose set.
        role: Which set.
        folder: Where a list of images to leave out is to lie.
    """
    images, settings, scan = source(study, role), image_settings(study, role), scan_of(study, role)
    good = {split: images.records(split) for split in SPLITS}
    original, leaking = opened(study)[role], leaking_of(study, role, good["train"])
    return Health(
        slot=SLOTS[role],
        name=settings.name,
        classes=images.classes,
        good=good,
        seen=original.seen if isinstance(original, FileSource) else Seen(),
        files=len(original.files) if isinstance(original, FileSource) else 0,
        scan=scan,
        framing=framing(study, role),
        pairs=pairs(study, role),
        leaking=leaking,
        remedy=study.command("evaluate", f"{SLOTS[role]}.leave_out={_list_of(role, folder)}") if leaking else None,
        copy=COPY,
        max_bad=settings.max_bad,
        summary=by_class(listed(images), images.classes, scan),
        captions=_captions(study, role, good["train"]),
        template=getattr(study.settings, CAPTIONED[role]).prompt,
        outlines=_outlines(study, role, good["train"]),
    )


def _captions(study: Study, role: Role, records: list[ImageRecord]) -> dict[str, dict[str, int]]:
    """How often each caption stands with training images, by class."""
    names = source(study, role).classes
    counted = {name: Counter[str]() for name in names}
    texts = captions_of(study, role, records, keywords_of(study, role, records))
    for record, text in zip(records, texts, strict=True):
        counted[names[record.label]][text] += 1
    return {name: dict(of_class.most_common()) for name, of_class in counted.items()}


def _outlines(
    study: Study, role: Role, records: list[ImageRecord]
) -> Mapping[str, list[tuple[np.ndarray, np.ndarray]]] | str:
    """A few training images of each class and their contours; or why there are none."""
    outlines = {}
    for label, name in enumerate(source(study, role).classes):
        of_class = [record for record in records if record.label == label]
        try:
            if of_class:
                chosen = [of_class[row] for row in evenly(len(of_class), OUTLINED)]
                outlines[name] = [outlined(study, role, record)[:2] for record in chosen]
        except UserError as error:  # no grey levels yet, for want of a mapping or of images to fit it to
            return str(error)
    return outlines
