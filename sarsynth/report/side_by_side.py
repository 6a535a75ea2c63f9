"""The synthetic sets of a sweep's jobs beside each other (the paper's Figure 1). Torch-free."""

from collections.abc import Sequence
from pathlib import Path

from sarsynth.console import console
from sarsynth.data.class_names import file_names
from sarsynth.errors import UserError
from sarsynth.report import pictures
from sarsynth.report.jobs import Job
from sarsynth.report.stored import ClassImages, read_set

SEEDS = 4  # images of a class and job in a class's own picture
SAMPLES = 3  # and in the picture of all classes


def side_by_side(jobs: Sequence[Job], store: Path, folder: Path) -> list[Path]:
    """Draw a picture of all classes and one of each, a group of columns for each job.

    Equal indices start from equal noise, so a row of a class's picture differs by the job alone. A set that cannot be
    read is left out, and named. Returns the files in `folder`; none if fewer than two sets of the same classes differ.
    """
    sets = _sets(jobs, store)
    classes = sets[0][1] if sets else []
    names = [members.name for members in classes]
    comparable = [(heading, each) for heading, each in sets if [members.name for members in each] == names]
    if len(comparable) < 2:
        return []
    files = [folder / "side_by_side.png"]
    groups = [(heading, [members.images[:SAMPLES] for members in each]) for heading, each in comparable]
    pictures.compose(groups, names, "the same seeds of each class side by side").save(files[0])
    stems = file_names(names)
    for index, members in enumerate(classes):
        columns = [(heading, [[image] for image in each[index].images]) for heading, each in comparable]
        seeds = [f"seed {seed}" for seed in range(max(len(rows) for _, rows in columns))]
        files.append(folder / f"side_by_side_{stems[members.name]}.png")
        pictures.compose(columns, seeds, members.prompt).save(files[-1])
    return files


def _sets(jobs: Sequence[Job], store: Path) -> list[tuple[str, list[ClassImages]]]:
    """Each different set, with the heading of the first job that has it."""
    sets: dict[str, tuple[str, list[ClassImages]]] = {}
    for job in jobs:
        fingerprint = job.result["inputs"].get("synthetic") if job.result else None
        if fingerprint and fingerprint not in sets:
            path = next((store / "synthetic").glob(f"*-{fingerprint}"))  # two, if two methods come to the same set
            try:
                sets[fingerprint] = job.heading, read_set(path, SEEDS)
            except UserError as error:
                console.print(f"  {job.name}: {error}", markup=False)
    return list(sets.values())
