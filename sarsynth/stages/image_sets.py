"""What a study does before it believes its images: leave bad ones out, join what is one picture, refuse leaks."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.panel import Panel
from rich.text import Text

from sarsynth.console import console, progress
from sarsynth.data.curated import Curated
from sarsynth.data.duplicates import AGREEMENT, HASHES, groups, near_duplicates
from sarsynth.data.health import FORM, Scan, scan
from sarsynth.data.records import SPLITS, ImageRecord
from sarsynth.errors import UserError
from sarsynth.stages import work
from sarsynth.store.artifacts import Artifact

if TYPE_CHECKING:
    from sarsynth.stages.study import Role, Study

PAIRS = "near.json"
STAGES: dict["Role", str] = {"sar": "data", "ors": "data", "regular": "controlnet"}  # that look at a set
COPY = 0.97  # agreement from which on two images are one picture in two encodings; see `guard`
SHOWN = 5  # names on the screen; files have them all


@dataclass(frozen=True)
class Pair:
    """Two images of one set that show one picture, and how well they agree: 1 for the same pixels."""

    one: ImageRecord
    other: ImageRecord
    agreement: float


# --- One look at every image ------------------------------------------------------------------------------------------


def scanned(study: "Study", role: "Role") -> Artifact:
    """Open every image of a set once and keep what it was found to be."""
    source, name = study.opened[role], study.images_of(role).name
    records = [record for split in SPLITS for record in source.records(split)]

    def build(folder: Path) -> None:
        with progress(f"looking at {role.upper()} images", len(records)) as advance:
            scan(source, records, advance).save(folder)

    return study.store.make(
        "cache",
        f"{name}-{role}-scan",
        {"source": study.contents[role], "paths": [record.path for record in records], "form": FORM},
        {},
        build,
        version=1,
        command=study.command("train.py", f"stage={STAGES[role]}"),
        work=work.looks(study, role, "scan", len(records)),
        survey=True,
    )


def paired(study: "Study", role: "Role") -> Artifact:
    """Find the images of a set that show one picture."""
    looked, bits = scanned(study, role), study.images_of(role).near_bits

    def build(folder: Path) -> None:
        (folder / PAIRS).write_text(json.dumps(near_duplicates(Scan.load(looked.path), bits)))

    return study.store.make(
        "cache",
        f"{study.images_of(role).name}-{role}-near",
        {"bits": bits, "hashes": HASHES, "agreement": AGREEMENT},
        {"scan": looked},
        build,
        version=1,
        command=study.command("train.py", f"stage={STAGES[role]}"),
        work=work.looks(study, role, "near-duplicates", len(study.scans[role].paths)),
        survey=True,
    )


def curated(study: "Study", role: "Role") -> Curated:
    """Open a set as the study uses it, and say what is left out."""
    scan, slot = study.scans[role], study.slot(role)
    say_bad(slot, scan.bad, scanned(study, role).path)
    opened = study.opened[role]
    near = [(scan.paths[i], scan.paths[j]) for i, j, _ in json.loads((paired(study, role).path / PAIRS).read_text())]
    records = [record for split in SPLITS for record in opened.records(split)]
    try:
        return Curated(opened, scan.bad, groups(records, near))
    except UserError as error:
        raise UserError(f"{slot}.{error}") from error


def check_bad(study: "Study", role: "Role") -> None:
    """Stop where too many images of a set are bad.

    Raises:
        UserError: More than `max_bad` of them are.
    """
    scan, slot, limit = study.scans[role], study.slot(role), study.images_of(role).max_bad
    if len(scan.bad) > limit * len(scan.paths):
        path, reason = next(iter(scan.bad.items()))
        raise UserError(
            f"{slot}.max_bad={limit:g}: {len(scan.bad)} of {len(scan.paths)} images are bad ({path}: {reason}); mend "
            "them, or raise it and go on without them; python train.py stage=data shows all"
        )


def say_bad(slot: str, bad: Mapping[str, str], artifact: Path) -> None:
    """Print which images are left out and why."""
    if not bad:
        return
    lines = [f"  {path}: {reason}" for path, reason in list(bad.items())[: 2 * SHOWN]]
    if len(bad) > len(lines):
        lines.append(f"  and {len(bad) - len(lines)} more, all in {artifact}")
    console.print(f"[yellow]warning:[/] {slot}: left out, {len(bad)} bad images")
    say("\n".join(lines))


def say(text: str, *before: str) -> None:
    """Print names of files as they are, even those that are no text, after what may have markup."""
    console.print(*before, Text(text.encode("utf-8", "backslashreplace").decode()))


def pairs(study: "Study", role: "Role") -> list[Pair]:
    """List the good images of a set that show one picture."""
    scan = study.scans[role]
    by_path = {record.path: record for split in SPLITS for record in study.sources[role].records(split)}
    found = json.loads((paired(study, role).path / PAIRS).read_text())
    return [Pair(by_path[scan.paths[i]], by_path[scan.paths[j]], agreement) for i, j, agreement in found]


def across(several: Sequence[Pair]) -> list[Pair]:
    """Choose those that lie in two splits: given ones, since none of ours parts a group."""
    return [pair for pair in several if pair.one.split != pair.other.split]


def say_across(study: "Study", role: "Role") -> None:
    """Print, in one line, how many images of given splits show one picture, and note it for the result."""
    crossing = across(pairs(study, role))
    study.crossing[study.slot(role)] = len(crossing)
    if crossing:
        named = [" and ".join(f"{one.path} ({one.split})" for one in (pair.one, pair.other)) for pair in crossing]
        found = f"{study.slot(role)}: {len(crossing)} pairs of near-duplicates across its splits: {some(named)}"
        say(found, "[yellow]warning:[/]")


def some(names: Sequence[str]) -> str:
    """Name the first few, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f", and {more} more" if more > 0 else "")


# --- Leaks ------------------------------------------------------------------------------------------------------------


def samples(study: "Study", role: "Role", records: Sequence[ImageRecord]) -> dict[str, Any]:
    """Say for a card which samples these are: by digest of their pixels, whatever they are called."""
    scan = study.scans[role]
    found = {}
    for split in SPLITS:
        chosen = [record for record in records if record.split == split]
        if chosen:
            found[scan.digest(chosen)] = {
                "set": study.slot(role),
                "data": study.images_of(role).name,
                "split": split,
                "count": len(chosen),
                "scan": scanned(study, role).fingerprint,
            }
    return found


def held_out(study: "Study", role: "Role") -> Iterator[tuple["Role", ImageRecord]]:
    """Yield the images that nothing may learn from: of the SAR set, and of the set in question."""
    owners: list[Role] = ["sar", role] if role != "sar" else ["sar"]
    for owner in owners:
        for split in SPLITS[1:]:
            yield from ((owner, record) for record in study.sources[owner].records(split))


def guard(study: "Study", role: "Role", records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Let images pass that something is to learn from, if none of them is a validation or test image.

    All training images of every stage come through here: for adapters, classifier, prototypes, contours, ControlNet and
    base. Two images are one if their pixels are, in whichever sets they lie; or, within one set, if their fine
    structure agrees at `COPY`: compressed, brightened or shifted, it is still the same recording. Two looks at one ship
    are no such copy, however alike: each has speckle of its own, and no two of MSTAR's 5,171 chips, many of one vehicle
    at almost one azimuth, reach even 0.9. Between 0.9 and `COPY` lie e.g. overlapping chips of one scene, which a data
    set may have in two of its splits for good reasons: `say_across` counts them, and the result has the number.

    Raises:
        UserError: Some are, and `data.allow_leak` is false.
    """
    scan = study.scans[role]
    held = {
        scan.content(pair.one): f"as good as {pair.other.split} image {pair.other.path} (agreement {pair.agreement:g})"
        for near in across(pairs(study, role))
        for pair in (near, Pair(near.other, near.one, near.agreement))
        if pair.one.split == "train" and pair.agreement >= COPY
    }
    held |= {
        study.scans[owner].content(record): f"{record.split} image {record.path} of {study.slot(owner)}"
        for owner, record in held_out(study, role)
    }
    contents = [(record.path, scan.content(record)) for record in records]
    leak(study, study.slot(role), [(path, held[content]) for path, content in contents if content in held])
    return list(records)


def leak(study: "Study", slot: str, found: Sequence[tuple[str, str]]) -> None:
    """Stop for held-out images among those that are learnt from, or note them where that is allowed.

    Args:
        study: Whose result says so.
        slot: The key of the set that they are in.
        found: Name of each, and which held-out image it is.
    """
    if not found:
        return
    told = some([f"{path} is {other}" for path, other in found])
    if not study.settings.data.allow_leak:
        raise UserError(
            f"{slot}: {len(found)} of what is learnt from are held out: {told}; remove them from one side, "
            "or say data.allow_leak=true, which every result will tell"
        )
    study.leaks[slot] = {"count": len(found), "samples": [list(pair) for pair in found]}
    text = f"{slot}: {len(found)} held-out samples are learnt from: {told}".encode("utf-8", "backslashreplace").decode()
    console.print(Panel(Text(text), title="LEAK (data.allow_leak=true): scores are no measure", style="bold red"))
