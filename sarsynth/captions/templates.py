"""Captions: templates over class name, text and keywords of an image; their wordings stand in the configuration."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any, Protocol

from sarsynth.data.records import ImageRecord
from sarsynth.errors import UserError

Wording = str | Mapping[str, str]  # a template; or one for each class, by name, and `default` for the others


@dataclass(frozen=True)
class Subject:
    """An image that keywords are wanted for."""

    slot: str  # which set of the study it belongs to: `data`, `ors` or `regular`
    set_name: str  # the name of that set
    class_name: str  # its class, in words
    record: ImageRecord
    words: tuple[str, ...]  # keywords from its annotations and pixels, if the describer looks at images one by one


class Describer(Protocol):
    """Anything that finds keywords for images; `prompt._target_` names its class."""

    @property
    def recipe(self) -> Mapping[str, Any]:
        """All that decides which keywords it finds, in plain values, for a fingerprint."""

    @property
    def looks(self) -> bool:
        """Whether keywords differ among the images of a class."""

    def describe(self, subjects: Sequence[Subject], report: Callable[[str], None]) -> list[tuple[str, ...]]:
        """Find the keywords of each image; `report` takes lines for people."""


def check_fields(template: str, fields: Sequence[str]) -> None:
    """Refuse a template with more in braces than plain names: no attribute, no width that fills the memory.

    Raises:
        ValueError: Says what, and which names can stand there.
    """
    can = f"only {' and '.join(f'{{{field}}}' for field in fields)} can stand in braces, as they are"
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{error}; {can}") from None
    for _, field, form, conversion in parts:
        if field is not None and (field not in fields or form or conversion):
            raise ValueError(f"{{{field}}} {'with a form ' if field in fields else ''}is none of ours; {can}")


def names_keywords(wording: Wording) -> bool:
    """Whether captions of this wording need keywords."""
    templates = [wording] if isinstance(wording, str) else wording.values()
    return any("{keywords}" in template for template in templates)


def caption(wording: Wording, class_name: str, text: str | None = None, keywords: tuple[str, ...] | None = None) -> str:
    """Fill a template, e.g. `a SAR image of {class_name} ship` or `{text}`.

    Args:
        wording: May name `{class_name}`, `{text}` and `{keywords}`.
        class_name: Underscores become spaces.
        text: The image's own text, if it has one.
        keywords: The image's keywords, if there are some; joined by commas.

    Raises:
        UserError: The template names something else, or something that the image does not have.
    """
    template = wording if isinstance(wording, str) else wording.get(class_name, wording.get("default"))
    if template is None:
        raise UserError(f"prompt: no template for class {class_name}; add one of that name, or `default`")
    if "{text}" in template and text is None:
        raise UserError(
            f"prompt='{template}': images of class {class_name} have no text; use {{class_name}} instead, or give them "
            "one: `text`, `prompt` or `caption` of their metadata or table, or a text file beside each"
        )
    if "{keywords}" in template and keywords is None:
        raise UserError(f"prompt='{template}': {{keywords}} can stand in prompt.captions alone")
    words = {"class_name": spoken(class_name), "text": text, "keywords": ", ".join(keywords or ())}
    try:
        check_fields(template, list(words))
    except ValueError as error:
        raise UserError(f"prompt='{template}': {error}") from None
    filled = template.format(**words)
    return filled.rstrip(", ") if keywords == () else filled  # no comma without a keyword after it


def captions(
    wording: Wording,
    records: Sequence[ImageRecord],
    classes: Sequence[str],
    keywords: Sequence[tuple[str, ...]] | None = None,
) -> list[str]:
    """Fill a template for each image; `keywords` are those of each, if there are any."""
    of_each: Sequence[tuple[str, ...] | None] = keywords if keywords is not None else [None] * len(records)
    return [
        caption(wording, classes[record.label], record.text, words)
        for record, words in zip(records, of_each, strict=True)
    ]


def class_captions(
    wording: Wording, texts: Sequence[str], records: Sequence[ImageRecord], classes: Sequence[str]
) -> dict[str, str]:
    """Give the caption of the images that are to be made, for each class.

    It is that of all training images of the class; where these differ, the wording for the class alone.

    Args:
        wording: For classes whose images differ, or that have none.
        texts: Captions of the training images.
        records: Those images.
        classes: Names of the labels.

    Raises:
        UserError: The wording needs an image's text.
    """
    different: dict[int, set[str]] = {label: set() for label in range(len(classes))}
    for text, record in zip(texts, records, strict=True):
        different[record.label].add(text)
    return {
        name: different[label].pop() if len(different[label]) == 1 else caption(wording, name)
        for label, name in enumerate(classes)
    }


def digest_of(texts: Sequence[str]) -> str:
    """Hex sha256 of captions, in their order."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def spoken(name: str) -> str:
    """Write a name as people say it: underscores become spaces."""
    return name.replace("_", " ")
