"""Cards of what is given to others, as the Hugging Face hub reads them: README.md with YAML in front. Torch-free.

What a card says of licences is what the user said; of worth, what a study measured. Nothing is supposed.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData, EvalResult, ModelCardData
from huggingface_hub.repocard import RepoCard
from jinja2 import Environment, PackageLoader, StrictUndefined

from sarsynth.errors import UserError
from sarsynth.evidence.results import leaks
from sarsynth.report.pieces import Cell, percent, points
from sarsynth.report.rows import TITLES, Row

CARD_NAME = "README.md"
OURS = "sarsynth"  # the tag by which a card is known to be of our making
IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # how the hub writes a licence, e.g. cc-by-nc-4.0
MEASURES = {"accuracy": "accuracy"}  # metrics of the hub, by column; F1 for all others


@dataclass(frozen=True)
class Subject:
    """What a card is of."""

    title: str
    method: str
    base: str  # as others know it
    base_on_hub: bool
    data: str
    license: str | None  # as the user says it
    command: str  # that makes it again
    counts: Mapping[str, int]  # real training images by class
    minor: Sequence[str]
    fingerprints: Mapping[str, str]  # of the artifacts that it is made from, by name
    notice: str | None = None  # what readers have to know
    row: Row | None = None  # what a study measured of it
    study: str = ""  # the name of that study


@dataclass(frozen=True)
class AdapterLine:
    """A file of a model card."""

    file: str
    about: Mapping[str, str] = field(default_factory=dict)  # its header


def model_card(subject: Subject, files: Sequence[AdapterLine]) -> str:
    """The card of LoRA files, which all lie beside it.

    Args:
        subject: What they are.
        files: Each with its header; the first is the one that the snippet of code loads.
    """
    known = ModelCardData(
        base_model=subject.base if subject.base_on_hub else None,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        instance_prompt=files[0].about.get("modelspec.trigger_phrase"),
        tags=[OURS, "lora", "text-to-image", "sar", "synthetic-data"],
        model_name=subject.title,
        eval_results=_eval_results(subject) or None,
        **_license(subject.license),
    )
    return _render("model_card.md", known, subject, files=files)


def dataset_card(subject: Subject, sizes: Mapping[str, int], captions: Mapping[str, str]) -> str:
    """The card of a synthetic set.

    Args:
        subject: What it is.
        sizes: Synthetic images by class.
        captions: What each class was made from.
    """
    total = sum(sizes.values())
    known = DatasetCardData(
        pretty_name=subject.title,
        task_categories=["image-classification"],
        size_categories=_size(total),
        tags=[OURS, "sar", "synthetic-data", "image"],
        annotations_creators=["machine-generated"],
        **_license(subject.license),
    )
    return _render("dataset_card.md", known, subject, sizes=sizes, captions=captions)


def check_free(file: Path, key: str) -> None:
    """Refuse to replace a text that is not a card of ours.

    Raises:
        UserError: It would be; names the key.
    """
    if not file.exists():
        return
    try:
        tags = RepoCard(file.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.get("tags") or []
    except (OSError, ValueError):
        tags = []
    if OURS not in tags:
        raise UserError(f"{key}: {file} is there already and is no card of sarsynth's; choose another folder")


def _license(said: str | None) -> dict[str, Any]:
    """How the hub wants a licence: by its identifier, or a name of one's own."""
    if said is None:
        return {}
    if IDENTIFIER.fullmatch(said):
        return {"license": said}
    name = re.sub(r"[^a-z0-9.]+", "-", said.lower()).strip("-")[:60].strip("-")
    return {"license": "other", "license_name": name or "other"}


def _size(images: int) -> str:
    """The hub's word for a number of images."""
    bounds = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
    return next((word for bound, word in bounds.items() if images < bound), "1M<n<10M")


def _eval_results(subject: Subject) -> list[EvalResult]:
    """The scores of classifiers that learnt from it too, as the hub's widgets show them."""
    if subject.row is None:
        return []
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=subject.data,
            dataset_name=subject.data,
            dataset_split="test",
            metric_type=MEASURES.get(column, "f1"),
            metric_name=name,
            metric_value=round(cell.value, 6),
            metric_args={"interval_95": [round(end, 6) for end in cell.interval]} if cell.interval else None,
        )
        for column, name, cell in _scores(subject)
        if isinstance(cell.value, float)
    ]


def _scores(subject: Subject) -> list[tuple[str, str, Cell]]:
    """Each score by its column and its name in a card."""
    row = subject.row
    assert row is not None
    names = {"minor_f1": "F1, mean of minor classes", "macro_f1": "F1, mean of all classes", "accuracy": "accuracy"}
    names |= {f"f1_{name}": f"{TITLES['f1']} of {name}" for name in subject.counts}
    return [(column, name, row[column]) for column, name in names.items() if row[column].value is not None]


def _worth(subject: Subject) -> list[dict[str, str]]:
    """The lines of the table of scores."""
    row, lines = subject.row, []
    for column, name, cell in _scores(subject) if row else []:
        gain = row[f"gain_{column}"] if row else Cell()
        lines.append(
            {
                "name": name,
                "score": percent(float(cell.value or 0)),
                "interval": " to ".join(map(percent, cell.interval)) if cell.interval else "",
                "gain": f"{points(float(gain.value))} {gain.mark}".strip() if gain.value is not None else "",
                "gain_interval": " to ".join(map(points, gain.interval)) if gain.interval else "",
            }
        )
    return lines


@cache
def _environment() -> Environment:
    loader = PackageLoader("sarsynth.report")
    return Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _render(template: str, known: ModelCardData | DatasetCardData, subject: Subject, **more: Any) -> str:
    row = subject.row
    body = (
        _environment()
        .get_template(template)
        .render(
            subject=subject,
            worth=_worth(subject),
            seeds=len(row.result["seeds"]) if row else 0,
            baseline=row.baseline if row else "",
            leaks=leaks(row.result) if row else [],
            **more,
        )
    )
    return f"---\n{known.to_yaml()}\n---\n\n{body.strip()}\n"
