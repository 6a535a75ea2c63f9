"""What a health report comes to: whether one can go on, what has to be mended first, what to keep in mind."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sarsynth.report.image_health import Health
from sarsynth.report.pieces import Command, Verdict

FEW_TEST = 30  # images of a class: with fewer, one is more than three points of its recall
FEW_TRAIN = 5  # images of a class, of which an adapter or a classifier learns next to nothing


@dataclass(frozen=True)
class Findings:
    """What is wrong with one set."""

    stops: Sequence[str]  # for which a run stops, or its scores are worthless
    remarks: Sequence[str]  # with which it goes on
    then: Sequence[Command] = ()  # what mends it

    @property
    def plain(self) -> dict[str, Any]:
        """All of it for health.json."""
        return {"ready": not self.stops, "stops": list(self.stops), "remarks": list(self.remarks)}


def findings(health: Health) -> Findings:
    """Find what is wrong with a set; of one that is only learnt from, no more than what stops."""
    slot, counts = health.slot, health.counts
    stops, remarks = [], []
    bad, total = len(health.scan.bad), len(health.scan.paths)
    if bad > health.max_bad * total:
        stops.append(
            f"{bad:,} of {total:,} images of {slot} are unreadable or blank, more than {slot}.max_bad="
            f"{health.max_bad:g} lets pass; "
            f"see {slot}: bad images, then mend or remove them, or say {slot}.max_bad={_above(bad / total)}"
        )
    elif bad:
        remarks.append(f"{bad:,} of {total:,} images of {slot} are unreadable or blank, and left out")
    if health.contradictions:
        count = f"{len(health.contradictions):,}"
        stops.append(
            f"{count} pictures of {slot} have two labels; find out which one is right ({slot}: images and values)"
        )
    if health.leaking:
        count = f"{len(health.leaking):,}"
        stops.append(
            f"{count} training images of {slot} are also held-out ones, or copies of them: scores would flatter"
        )
    if not sum(counts.get("train", {}).values()):
        stops.append(f"{slot} has no training images; see {slot}.train")
    if slot == "data":
        stops += _untested(health)
        remarks += [*_few(health), *_given_away(health)]
    remarks += [f"{slot}: {line}" for line in health.framing.warnings(health.shapes)]
    then = [Command(f"Leave these {len(health.leaking):,} out:", health.remedy)] if health.remedy else []
    return Findings(stops, remarks, then)


def verdict(healths: Sequence[Health], go_on: str) -> Verdict:
    """Sum several sets up; `go_on` is the command of those who have nothing to mend."""
    found = [findings(health) for health in healths]
    stops = [line for one in found for line in one.stops]
    remarks = [line for one in found for line in one.remarks]
    if stops:
        line = "Mend this first: " + ("one thing stands" if len(stops) == 1 else f"{len(stops)} things stand")
        then = [command for one in found for command in one.then]
        return Verdict(f"{line} between these images and a study", False, [*stops, *remarks], then)
    line = "Ready: nothing stands between these images and a study"
    kept = f"; keep {'this' if len(remarks) == 1 else 'these'} in mind" if remarks else ""
    return Verdict(line + kept, True, remarks, [Command("Next, whether synthetic images pay:", go_on)])


def _above(share: float) -> str:
    """Round a share up to two decimals."""
    return f"{-(-share * 100 // 1) / 100:g}"


def _untested(health: Health) -> list[str]:
    """Say which classes cannot be scored, or cannot be learnt."""
    counts = health.counts
    if not sum(counts.get("test", {}).values()):
        return ["data has no test images; data.test=0.2 holds a fifth of the training images out"]
    lines = []
    for split, what in (("train", "training"), ("test", "test")):
        lacking = [name for name, count in counts.get(split, {}).items() if not count]
        if lacking and counts.get(split):
            lines.append(f"no {what} images of {', '.join(lacking)}: add some, or leave the class out of the folder")
    return lines


def _few(health: Health) -> list[str]:
    """Name classes of which there are too few images to say much."""
    lines = []
    tested, trained = (health.counts.get(split, {}) for split in ("test", "train"))
    few = {name: count for name, count in tested.items() if 0 < count < FEW_TEST}
    if few:
        name, count = min(few.items(), key=lambda item: item[1])
        names = ", ".join(f"{name} ({count})" for name, count in few.items())
        lines.append(
            f"few test images of {names}: one of {name} is {100 / count:.1f} points of its recall, so that only large "
            "gains will show; more test images tell more than more seeds"
        )
    if rare := [f"{name} ({count})" for name, count in trained.items() if 0 < count < FEW_TRAIN]:
        lines.append(f"hardly any training images of {', '.join(rare)}: what is made of them will be copies")
    return lines


def _given_away(health: Health) -> list[str]:
    """Say so where the size of an image tells its class: a classifier that sees edges or scales learns that instead."""
    sizes = {name: set(facts["sizes"]) for name, facts in health.summary.items() if facts["sizes"]}
    told = [
        name
        for name, own in sizes.items()
        if len(sizes) > 1 and not own & set().union(*(other for one, other in sizes.items() if one != name))
    ]
    if not told:
        return []
    return [f"the size of an image tells that it is {' or '.join(told)}; data.crop=PIXELS cuts all to one size"]
