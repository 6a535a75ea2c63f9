"""Artifacts: folders that are named by what they were made from, and the requests for them."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sarsynth.errors import UserError, one_line
from sarsynth.store.costs import Work

JSON = Any  # None, bool, int, float or str, or lists and str-keyed mappings of these

CARD = "card.json"
CHECKPOINTS = "checkpoints"  # a builder's own, inside its partial folder; gone once the artifact is complete
LONGEST = 120  # characters of a label: with kind and fingerprint a name stays well below 255
UNKNOWN = "?"  # begins what stands for a fingerprint as long as something it follows from is not there


def read_card(folder: Path) -> dict[str, JSON]:
    """Read the card of an artifact.

    Raises:
        UserError: It is missing or damaged; names it, and what mends it.
    """
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        if not isinstance(card, dict) or not card.keys() >= {"kind", "label", "fingerprint", "inputs"}:
            raise ValueError("no card of ours")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{folder / CARD} cannot be read ({one_line(error)}); remove {folder} and run again, which makes it anew"
        ) from error
    return card


@dataclass(frozen=True)
class Artifact:
    """A folder of the store; complete, and never changed again, as soon as it holds its card."""

    kind: str
    label: str
    fingerprint: str
    path: Path

    @property
    def complete(self) -> bool:
        """Whether the card, which is written last, is there."""
        return (self.path / CARD).is_file()

    @property
    def known(self) -> bool:
        """Whether the fingerprint is one, and not what stands for it in a plan."""
        return not self.fingerprint.startswith(UNKNOWN)

    @property
    def card(self) -> dict[str, JSON]:
        """What the artifact is, from what it was made, when, by which code and at what cost.

        Raises:
            UserError: The card is missing or damaged.
        """
        return read_card(self.path)

    def __str__(self) -> str:
        return f"{self.kind}/{self.label}-{self.fingerprint}"


@dataclass(frozen=True, eq=False)
class Request:
    """An artifact that somebody asks for."""

    kind: str  # folder of the store: `adapter`, `classifier`, …
    name: str  # for people; as a label it is part of the folder's name, not of the fingerprint
    settings: Mapping[str, JSON]  # everything that changes the content, and nothing else (no paths, no speed switches)
    inputs: Mapping[str, Artifact]  # the artifacts it is made from, by role
    # of the builder: raised whenever a change of its code changes what it makes, so that nothing that an earlier one
    # made is taken for it
    version: int
    command: str  # what a person types to make this artifact; quoted under `build=require`
    # in which precision networks compute it (see `training.precision`); None where no network does
    precision: str | None = None
    # which samples it reads itself, by digest; its card also lists those of its inputs, and through which
    samples: Mapping[str, JSON] = field(default_factory=dict)
    work: Work | None = None  # how much there is to do, None if nobody counts it
    # artifacts whose content settings were read from; where one is not there, which only a plan lets pass, the settings
    # are supposed, and the fingerprint is what stands for it
    follows: Sequence[Artifact] = ()
    survey: bool = False  # whether it is a look at data alone, from which other fingerprints follow; a plan has it made

    @property
    def label(self) -> str:
        """The name in letters, and as many of them, as any file system takes."""
        return re.sub(r"[^A-Za-z0-9._-]+", "_", self.name)[:LONGEST]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that decides the content.

        Where that is not known yet, what stands for it: equal ones will be one artifact.
        """
        absent = {str(number): made for number, made in enumerate(self.follows) if not made.complete}
        inputs = {**self.inputs, **absent}
        content = fingerprint(self.kind, self.settings, inputs, self.version, self.precision)
        return content if not absent and all(made.known for made in inputs.values()) else UNKNOWN + content

    def card(self) -> dict[str, JSON]:
        """What the card says before the artifact is made."""
        samples = dict(self.samples)
        for role, made in self.inputs.items():
            theirs = made.card.get("samples", {}) if made.complete else {}  # what came from elsewhere has no card
            samples = {digest: seen | {"through": role} for digest, seen in theirs.items()} | samples
        return {
            "kind": self.kind,
            "label": self.label,
            "fingerprint": self.fingerprint,
            "settings": self.settings,
            "inputs": {role: made.fingerprint for role, made in self.inputs.items()},
            "version": self.version,
            "precision": self.precision,
            "samples": samples,
            "work": self.work and self.work.plain,
        }


def fingerprint(
    kind: str, settings: Mapping[str, JSON], inputs: Mapping[str, Artifact], version: int, precision: str | None = None
) -> str:
    """Hash everything that decides an artifact's content: 16 hex digits, whatever the order of the keys.

    Raises:
        TypeError, ValueError: A setting is not JSON (NaN is not).
    """
    content = {
        "kind": kind,
        "settings": settings,
        "inputs": {role: made.fingerprint for role, made in inputs.items()},
        "version": version,
        "precision": precision,
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
