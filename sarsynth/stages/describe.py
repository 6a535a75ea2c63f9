"""Captions in a study: how each set's come about, once, and what of them the base's text encoder does not see."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape

from sarsynth.captions.keywords import Rules, keywords
from sarsynth.captions.templates import Subject, captions, class_captions, names_keywords, spoken
from sarsynth.console import console, progress
from sarsynth.data.records import Box, ImageRecord, digest
from sarsynth.data.transforms import central_square
from sarsynth.diffusion.base import Base
from sarsynth.stages import work
from sarsynth.store.artifacts import Artifact

if TYPE_CHECKING:
    from sarsynth.stages.study import Role, Study

KEYWORDS, REPORT, CAPTIONS = "keywords.jsonl", "report.txt", "captions.jsonl"
SHOWN = 80  # characters of what is lost, in a line


def captions_of(study: "Study", role: "Role", records: Sequence[ImageRecord], keywords: Artifact | None) -> list[str]:
    """Give the captions of images of a set, in their order.

    Args:
        study: Whose images.
        role: Which set.
        records: The images.
        keywords: What `keywords_of` found of them. Where that is not there yet, which only a plan lets pass, nothing is
            supposed to be said of any image.
    """
    found = None
    if keywords:
        found = _read(keywords) if keywords.complete else [()] * len(records)
    return captions(study.settings.wording(study.slot(role)), records, study.sources[role].classes, found)


def captions_of_classes(study: "Study") -> dict[str, str]:
    """Give the caption of the images that are made of each SAR class."""
    wording = study.settings.wording("data", class_level=True)
    return class_captions(wording, study.captions["sar"], study.training, study.classes)


def keywords_of(study: "Study", role: "Role", records: Sequence[ImageRecord]) -> Artifact | None:
    """Find the keywords of each of these images of a set; None where its captions have none."""
    if not names_keywords(study.settings.wording(study.slot(role))):
        return None
    prompt, name = study.settings.prompt, study.images_of(role).name
    source = study.sources[role]
    assert prompt.facts is not None
    rules, describer = Rules(**prompt.facts.model_dump()), prompt.build()

    def look(record: ImageRecord) -> tuple[np.ndarray, Box]:
        pixels = study.radiometry[role].levels(source.read(record), record.path)
        return pixels, central_square(*pixels.shape[:2])

    def build(folder: Path) -> None:
        found: list[tuple[str, ...]] = [()] * len(records)
        if describer is None or describer.looks:
            with progress(f"keywords of {role.upper()} images", len(records)) as advance:
                for row, words in enumerate(keywords(records, look, rules)):
                    found[row] = words
                    advance()
        if describer:
            subjects = [
                Subject(study.slot(role), name, spoken(source.classes[record.label]), record, words)
                for record, words in zip(records, found, strict=True)
            ]
            report: list[str] = []
            found = describer.describe(subjects, report.append)
            for line in report:
                console.print(f"  {line}", markup=False)
            (folder / REPORT).write_text("".join(f"{line}\n" for line in report), encoding="utf-8")
        _write(folder / KEYWORDS, [{"file_name": r.path, "keywords": w} for r, w in zip(records, found, strict=True)])

    return study.store.make(
        "cache",
        f"{name}-{role}-keywords",
        {
            "source": study.fingerprints[role],
            "records": digest(records),
            "facts": prompt.facts.model_dump(mode="json"),
            "describer": describer and dict(describer.recipe),
        },
        {},
        build,
        version=1,
        command=study.command("train.py", "stage=ors" if role == "ors" else "stage=sar"),
        samples=study.samples(role, records),
        work=work.looks(study, role, "keywords", len(records), describer=describer and type(describer).__name__),
        survey=describer is None,
    )


def _read(keywords: Artifact) -> list[tuple[str, ...]]:
    lines = (keywords.path / KEYWORDS).read_text(encoding="utf-8").splitlines()
    return [tuple(json.loads(line)["keywords"]) for line in lines]


def samples(study: "Study") -> dict[str, dict[str, str]]:
    """Give the captions of the images that the method makes, and one of each class of the ORS set that it learns from.

    Empty for methods that make no images.
    """
    if study.settings.method.adds != "synthetic":
        return {}
    found = {"synthetic": study.class_captions}
    if study.settings.method.below:
        classes, texts = study.sources["ors"].classes, study.captions["ors"]
        shown = {classes[r.label]: text for r, text in zip(study.training_records("ors"), texts, strict=True)}
        found["ors"] = dict(sorted(shown.items()))
    return found


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
