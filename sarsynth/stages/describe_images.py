"""Describe images: the captions of each set and of each class, and what of them the base's text encoder cuts off."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape

from sarsynth.captions import templates
from sarsynth.captions.keywords import Rules
from sarsynth.captions.keywords import keywords as find_keywords
from sarsynth.captions.templates import Subject, names_keywords, spoken
from sarsynth.console import console, progress
from sarsynth.data.framing import inside
from sarsynth.data.records import Box, ImageRecord, digest
from sarsynth.data.transforms import shape_of
from sarsynth.diffusion.base import Base
from sarsynth.stages.curate_images import classes, samples, source, training
from sarsynth.stages.fit_radiometry import fingerprint, radiometry
from sarsynth.stages.frame_images import framing
from sarsynth.stages.open_images import CAPTIONED, Role, image_settings
from sarsynth.stages.study import Study, once
from sarsynth.store.artifacts import Artifact
from sarsynth.store.costs import Work

KEYWORDS, REPORT, CAPTIONS = "keywords.jsonl", "report.txt", "captions.jsonl"
SHOWN = 80  # characters of what is lost, in a line


@once
def keywords(study: Study, role: Role) -> Artifact | None:
    """The keywords of the training images of a set; None where its captions have none."""
    return keywords_of(study, role, training(study, role))


@once
def captions(study: Study, role: Role) -> list[str]:
    """The captions of the training images of a set, in their order."""
    return captions_of(study, role, training(study, role), keywords(study, role))


@once
def class_captions(study: Study) -> dict[str, str]:
    """The caption of the images that are made of each SAR class."""
    wording = study.settings.wording("data", class_level=True)
    return templates.class_captions(wording, captions(study, "sar"), training(study, "sar"), classes(study))


def described_by(study: Study, role: Role) -> list[Artifact]:
    """The artifacts that the captions of a set were read from."""
    artifact = keywords(study, role)
    return [artifact] if artifact else []


def captions_of(study: Study, role: Role, records: Sequence[ImageRecord], keywords: Artifact | None) -> list[str]:
    """Give the captions of images of a set, in their order.

    Args:
        study: Whose images.
        role: Which set.
        records: The images.
        keywords: What `keywords_of` found of them. Where that is not there yet, which only a plan lets pass, captions
            are supposed to be without keywords.
    """
    words = None
    if keywords:
        words = _read(keywords) if keywords.complete else [()] * len(records)
    return templates.captions(study.settings.wording(CAPTIONED[role]), records, source(study, role).classes, words)


def keywords_of(study: Study, role: Role, records: Sequence[ImageRecord]) -> Artifact | None:
    """Find the keywords of each of these images of a set; None where its captions have none."""
    if not names_keywords(study.settings.wording(CAPTIONED[role])):
        return None
    prompt, name = study.settings.prompt, image_settings(study, role).name
    assert prompt.facts is not None
    describer = prompt.build()

    def build(folder: Path) -> None:
        words: list[tuple[str, ...]] = [()] * len(records)
        if describer is None or describer.looks:
            words = _look(study, role, records)
        if describer:
            class_names = source(study, role).classes
            subjects = [
                Subject(CAPTIONED[role], name, spoken(class_names[record.label]), record, of_image)
                for record, of_image in zip(records, words, strict=True)
            ]
            report: list[str] = []
            words = describer.describe(subjects, report.append)
            for line in report:
                console.print(f"  {line}", markup=False)
            (folder / REPORT).write_text("".join(f"{line}\n" for line in report), encoding="utf-8")
        _write(folder / KEYWORDS, [{"file_name": r.path, "keywords": w} for r, w in zip(records, words, strict=True)])

    return study.make(
        "cache",
        f"{name}-{role}-keywords",
        {
            "source": fingerprint(study, role),
            "records": digest(records),
            "facts": prompt.facts.model_dump(mode="json"),
            "describer": describer and dict(describer.recipe),
        },
        {},
        build,
        command=("train", "stage=ors" if role == "ors" else "stage=sar"),
        samples=samples(study, role, records),
        work=Work(
            "keywords", "images", len(records), {"data": name, "describer": describer and type(describer).__name__}
        ),
        survey=describer is None,
    )


def _look(study: Study, role: Role, records: Sequence[ImageRecord]) -> list[tuple[str, ...]]:
    """Read keywords off the pixels and annotations of images."""
    facts, images, levels = study.settings.prompt.facts, source(study, role), radiometry(study, role)
    assert facts is not None
    frames = framing(study, role)

    def look(record: ImageRecord) -> tuple[np.ndarray, Box]:
        pixels = levels.levels(images.read(record), record.path)
        shape = shape_of(pixels, record)
        return pixels, inside(frames.frame(shape), shape)

    words = []
    with progress(f"keywords of {role.upper()} images", len(records)) as advance:
        for of_image in find_keywords(records, look, Rules(**facts.model_dump())):
            words.append(of_image)
            advance()
    return words


def _read(keywords: Artifact) -> list[tuple[str, ...]]:
    lines = (keywords.path / KEYWORDS).read_text(encoding="utf-8").splitlines()
    return [tuple(json.loads(line)["keywords"]) for line in lines]


def caption_samples(study: Study) -> dict[str, dict[str, str]]:
    """Give the captions of the images that the method makes, and one of each class of the ORS set that it learns from.

    Empty for methods that make no images.
    """
    if study.settings.method.adds != "synthetic":
        return {}
    shown = {"synthetic": class_captions(study)}
    if study.settings.method.below:
        names, texts = source(study, "ors").classes, captions(study, "ors")
        by_class = {names[r.label]: text for r, text in zip(training(study, "ors"), texts, strict=True)}
        shown["ors"] = dict(sorted(by_class.items()))
    return shown


# --- What is written and told of them ---------------------------------------------------------------------------------


def write_captions(folder: Path, base: Base, records: Sequence[ImageRecord], texts: Sequence[str]) -> None:
    """Write each image's caption beside its latents: its tokens, how many of them are seen, and the words cut off."""
    rows = [{"file_name": record.path} | row for record, row in zip(records, _measured(base, texts), strict=True)]
    _write(folder / CAPTIONS, rows)


def _measured(base: Base, texts: Sequence[str]) -> list[dict[str, Any]]:
    found = dict(zip(unique := sorted(set(texts)), base.cut(unique), strict=True))
    return [
        {"text": text, "tokens": tokens, "seen": min(tokens, base.text_length), "cut": cut}
        for text in texts
        for tokens, cut in [found[text]]
    ]


def warn_of_cuts(folder: Path, what: str) -> None:
    """Say how many captions are longer than the text encoder sees, and what one of them loses.

    Args:
        folder: Where `write_captions` wrote them.
        what: Whose captions they are.
    """
    rows = [json.loads(line) for line in (folder / CAPTIONS).read_text(encoding="utf-8").splitlines()]
    _warn(rows, what, f"; all are in {folder / CAPTIONS}")


def warn_of_long(base: Base, texts: Sequence[str], what: str) -> None:
    """Say the same of captions that stand in no file, since nothing was trained on them."""
    _warn(_measured(base, texts), what, "")


def _warn(rows: Sequence[dict[str, Any]], what: str, where: str) -> None:
    long = [row for row in rows if row["cut"]]
    if not long:
        return
    worst = max(long, key=lambda row: (row["tokens"], row["text"]))
    lost = worst["cut"] if len(worst["cut"]) <= SHOWN else worst["cut"][: SHOWN - 1] + "…"
    console.print(
        f"[yellow]warning:[/] {len(long)} of {len(rows)} captions of {what} are cut off at {worst['seen']} tokens; "
        f"the longest, of {worst['tokens']}, loses `{escape(lost)}`{escape(where)}"
    )


def _write(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    # What is no text in the name of an image's file becomes an escape of JSON's.
    file.write_text(text, encoding="utf-8", errors="backslashreplace")
