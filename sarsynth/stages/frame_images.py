"""Frame images: which square of each is seen by all that learns, and what that costs those that are not square."""

from dataclasses import replace

from sarsynth.data.framing import Framing, Shape, framing_of, shapes
from sarsynth.stages.curate_images import say, source
from sarsynth.stages.open_images import SLOTS, Role, image_settings, listed, scan_of
from sarsynth.stages.study import Study, first, once


@once
def framing(study: Study, role: Role) -> Framing:
    """How images of a set become squares; lines say, once a run, what the others lose by it."""
    found = shapes_of(study, role)
    chosen = framing_of(image_settings(study, role).fit, [shape for _, shape in found])
    if role == "also" and chosen.extent:  # at the scale that the classifiers know
        chosen = replace(chosen, extent=framing(study, "sar").extent)
    if not study.planning and first(study, "shapes", role):
        for line in chosen.warnings(found):
            say(f"{SLOTS[role]}: {line}", "[yellow]warning:[/]")
    return chosen


def shapes_of(study: Study, role: Role) -> list[tuple[str, Shape]]:
    """The shapes of the good images of a set, by name."""
    scan = scan_of(study, role)
    return shapes(listed(source(study, role)), scan.rows, scan.sizes)
