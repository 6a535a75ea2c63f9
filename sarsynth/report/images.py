"""Sections on the images themselves: samples, scale strips, nearest real neighbours, a map of features."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sarsynth.data.class_names import file_names
from sarsynth.errors import UserError
from sarsynth.evidence.results import REASONS
from sarsynth.report import html, plots
from sarsynth.report.chips import chips, tone_of
from sarsynth.report.pictures import evenly
from sarsynth.report.pieces import COUNT, SHORT, Cell, Gallery, Note, Picture, Piece, Table, percent_sign
from sarsynth.report.plots import Plot
from sarsynth.report.rows import distances
from sarsynth.report.stored import open_tensors, read_set, reading
from sarsynth.report.sweep import MOST_ROWS, Sweep

SHOWN = 6  # images of a class in a strip
STRIP = 900  # px of the longer side of a picture that a job left
POINTS = 200  # images of a set in the map of features, as many of each class
NEAREST = ("method", "near-copies", "median distance", "of real images")
OF_THE_FIRST = Note(f"Of the first {MOST_ROWS} rows; images of the others lie in their folders.")
FILTERED = ("method", "images", "FID", "KID", "near-copies by features", "by pixels")


def samples(sweep: Sweep) -> list[Piece]:
    """The first images of each set, not chosen by anybody, a row a method. Equal places start from equal noise."""
    by_class: dict[str, dict[str, np.ndarray]] = {name: {} for name in sweep.classes}
    wrong: dict[str, None] = {}
    for result in sweep.results:
        try:
            for class_name, images in _real_images(sweep, result).items():
                by_class[class_name].setdefault("real", images)
        except UserError as error:
            wrong[f"Without real images: {error}."] = None
    folders: dict[Path, str] = {}  # of each different set, with the first row that has it
    for name, result in zip(sweep.names, sweep.results, strict=True):
        if folder := sweep.artifact(result["inputs"].get("synthetic")):
            folders.setdefault(folder, name)
    for folder, name in list(folders.items())[:MOST_ROWS]:
        try:
            for members in read_set(folder, SHOWN):
                by_class[members.name][name] = np.stack(members.images)
        except UserError as error:
            wrong[f"Without {name}: {error}."] = None
    galleries = []
    for class_name, sets in by_class.items():
        if sets:
            tone = tone_of(sets.values())
            strips = [
                Picture(chips(list(images), f"{class_name}: {name}", tone), name) for name, images in sets.items()
            ]
            heading = f"{sweep.classes[class_name]} ({tone.said})" if tone.said else sweep.classes[class_name]
            galleries.append(Gallery(heading, strips, rows=True))
    more = [OF_THE_FIRST] * (len(folders) > MOST_ROWS)
    return [*map(Note, wrong), *galleries, *more] or [sweep.absent]


def _real_images(sweep: Sweep, result: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The first real training images of each class, from the cache that a classifier was trained on."""
    train = _train(sweep, result)
    if train is None:
        return {}
    with open_tensors(train / "images.safetensors") as file:
        labels, images = file.get_tensor("labels"), file.get_slice("images")
        rows = {name: np.flatnonzero(labels == label)[:SHOWN] for label, name in enumerate(result["classes"])}
        return {name: np.stack([images[int(row)] for row in first]) for name, first in rows.items() if len(first)}


def _train(sweep: Sweep, result: Mapping[str, Any]) -> Path | None:
    """The folder of the real training images of a row, as its classifiers saw them."""
    for seed in result["seeds"]:
        card = sweep.card(result["inputs"].get(f"seed_{seed}", ""))
        if card and (folder := sweep.artifact(card["inputs"].get("train"))):
            return folder
    return None


def strips(sweep: Sweep) -> list[Piece]:
    """One noise a row, the scale of the whole stack of adapters from none to full."""
    return _first(_strips(sweep)) or [Note("No row here has adapters.")]


def _strips(sweep: Sweep) -> Iterator[Gallery]:
    for name, job in zip(sweep.names, sweep.jobs, strict=True):
        pictures, names = [], {stem: subject for subject, stem in file_names((job.result or {})["classes"]).items()}
        for file in sorted(job.folder.glob("strip_*.png")):
            subject = file.name.removeprefix("strip_").removesuffix(".png")
            subject = names.get(subject, subject)
            with Image.open(file) as picture:
                pictures.append(Picture(html.image(picture, f"scales of {name}, {subject}", largest=STRIP), subject))
        if pictures:
            yield Gallery(name, pictures, folded=True)


def memorisation(sweep: Sweep) -> list[Piece]:
    """Nearest real training image of each synthetic one.

    A near-copy is nearer than all but a few real images are to each other. Diversity is the mean distance of two images
    of a class in features.
    """
    named = zip(sweep.names, sweep.results, strict=True)
    with_sets = [(name, result) for name, result in named if result["memorisation"]]
    nearest = [line for name, result in with_sets for line in _nearest(name, result["memorisation"])]
    if not nearest:
        return [Note("No row has synthetic images.")]
    diverse, joined = [], []
    for name, result in with_sets:
        figures, kept = result["memorisation"]["per_class"], result["filter"]
        diverse.append([Cell(name), *(_diversity(figures.get(class_name)) for class_name in sweep.classes)])
        counts = [_joined(kept["per_class"].get(class_name)) for class_name in sweep.classes]
        joined.append([Cell(name, detail=kept["name"]), *counts])
    filtered = [(name, result) for name, result in with_sets if result["filter"]["name"] != "none"]
    dropped = [line for name, result in filtered for line in _before_and_after(name, result)]
    by_class = ["method", *sweep.classes.values()]
    tables = [
        Table("Distance to the nearest real image", NEAREST, nearest),
        Table("Diversity of synthetic images, and of real ones", by_class, diverse),
        Table("Images that joined the real ones, by filter", by_class, joined),
    ]
    if dropped:
        tables.append(Table("All images of a set, and those that its filter keeps", FILTERED, dropped))
    notes = [note for name, result in filtered for note in _reasons(sweep, name, result)]
    return [*tables, *notes, *_first(piece for name, result in with_sets for piece in _pairs(sweep, name, result))]


def _nearest(name: str, memorised: Mapping[str, Any]) -> list[list[Cell]]:
    """How far the images of a set are from the nearest real ones, a line for each space."""
    lines = []
    for space, figures in memorised["spaces"].items():
        medians = [Cell(figures[key], SHORT) for key in ("synthetic", "real")]
        lines.append([Cell(name, detail=space), Cell(figures["near_copies"], percent_sign), *medians])
    return lines


def _before_and_after(name: str, result: Mapping[str, Any]) -> list[list[Cell]]:
    """What a filter does to the numbers: a line for all images, if the result has it, and one for those kept."""
    before, counts = result["filter"].get("before"), result["filter"]["per_class"].values()
    lines = []
    for figures, title, key in ((before, "all", "made"), (result, f"kept by {result['filter']['name']}", "kept")):
        if figures:
            number = sum(by_class[key] for by_class in counts)
            near = distances(figures["fidelity"])
            spaces = figures["memorisation"]["spaces"]
            shares = [(spaces.get(space) or {}).get("near_copies") for space in ("features", "pixels")]
            apart = [replace(near[measure], interval=None) for measure in ("fid", "kid")]
            copies = [Cell(share, percent_sign) for share in shares]
            lines.append([Cell(name, detail=title), Cell(number, COUNT), *apart, *copies])
    return lines


def _reasons(sweep: Sweep, name: str, result: Mapping[str, Any]) -> list[Note]:
    verdicts = sweep.artifact(result["inputs"].get("filter"))
    note = Note(f"{name}: why an image was dropped stands in {verdicts}/{REASONS}.") if verdicts else sweep.absent
    older = Note(f"{name}: its result is older and has no numbers of all images; run the sweep again.")
    return [note] if result["filter"].get("before") else [note, older]


def _diversity(figures: Mapping[str, Any] | None) -> Cell:
    if figures is None:
        return Cell()
    own, real = (figures["diversity"][side] for side in ("synthetic", "real"))
    return Cell(own, SHORT, detail="" if own is None or real is None else f"real {SHORT(real)}")


def _joined(counts: Mapping[str, int] | None) -> Cell:
    if counts is None:
        return Cell()
    detail = f"of {counts['planned']} planned\n{counts['kept']} of {counts['made']} kept"
    return Cell(counts["joined"], detail=detail)


def _pairs(sweep: Sweep, name: str, result: Mapping[str, Any]) -> list[Piece]:
    """The nearest pairs of a row: synthetic on the left, real on the right of each."""
    folder, train = sweep.artifact(result["inputs"].get("synthetic")), _train(sweep, result)
    if folder is None or train is None:
        return [sweep.absent]
    groups: dict[str, list[np.ndarray]] = {}
    try:
        with open_tensors(train / "images.safetensors") as tensors:
            images = tensors.get_slice("images")
            for pair in result["memorisation"]["pairs"]:
                real, file = images[pair["real_row"]], folder / pair["synthetic"]
                with reading(file, folder), Image.open(file) as picture:
                    pixels = np.asarray(picture.resize(real.shape[:0:-1]))
                synthetic = pixels.reshape(*real.shape[1:], -1).transpose(2, 0, 1)
                both = np.concatenate(np.broadcast_arrays(synthetic, real), axis=2)
                groups.setdefault(f"{pair['class']}, by {pair['space']}", []).append(both)
    except UserError as error:
        return [Note(f"No nearest pairs of {name}: {error}.")]
    tone = tone_of(pair for pairs in groups.values() for pair in pairs)
    strips = [Picture(chips(pairs, f"{group}: {name}", tone), group) for group, pairs in groups.items()]
    told = f", {tone.said}" if tone.said else ""
    return [Gallery(f"{name}: nearest pairs, synthetic and real{told}", strips, folded=True, rows=True)]


def _first(pieces: Iterable[Piece]) -> list[Piece]:
    """The first pieces with pictures of a row each, and no others are made; a page holds no more than it can carry."""
    shown = list(islice(pieces, MOST_ROWS + 1))  # one more tells whether there are more
    return [*shown[:MOST_ROWS], *[OF_THE_FIRST] * (len(shown) > MOST_ROWS)]


def feature_map(sweep: Sweep) -> list[Piece]:
    """t-SNE of the classifier's features: crosses are synthetic images, dots real training images of the same class.

    Large classes are thinned. Neighbourhoods mean something, distances and sizes of clusters do not.
    """
    real: tuple[np.ndarray, np.ndarray] | None = None
    sets: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    notes: list[Piece] = []
    for name, result in zip(sweep.names, sweep.results, strict=True):
        if len(sets) == MOST_ROWS:
            notes.append(OF_THE_FIRST)
            break
        try:
            if (stored := _features(sweep, result)) is not None:
                real, sets[name] = stored
        except UserError as error:
            notes.append(Note(f"Without {name}: {error}."))
    if real is None:
        return notes or [Note("No row has stored features of synthetic images.")]
    from sklearn.manifold import TSNE  # a second to import, and only here

    blocks = [real[0], *(features for features, _ in sets.values())]
    near = min(30, (sum(map(len, blocks)) - 1) / 3)
    places = TSNE(init="pca", max_iter=500, random_state=0, perplexity=near).fit_transform(
        np.concatenate(blocks).astype(np.float64)
    )
    split = np.split(places, np.cumsum([len(block) for block in blocks])[:-1])
    placed = {name: (points, labels) for points, (name, (_, labels)) in zip(split[1:], sets.items(), strict=True)}
    figures = plots.both(plots.embedding, split[0], real[1], placed, sweep.results[0]["classes"])
    return [*notes, Plot("features", alt="Map of real and synthetic features, a panel a method", **figures)]


def _features(sweep: Sweep, result: Mapping[str, Any]) -> Any:
    """Features and labels of some real and some synthetic images; None if the store lacks them.

    Raises:
        UserError: They are damaged.
    """
    card = sweep.card(result["inputs"].get("fidelity", ""))
    folders = [sweep.artifact(card["inputs"].get(side)) for side in ("real", "synthetic")] if card else []
    sides = []
    for folder in folders:
        if folder is None:
            return None
        with open_tensors(folder / "features.safetensors") as tensors:
            features, labels = tensors.get_tensor("features"), tensors.get_tensor("labels")
            if bad := int((~np.isfinite(features)).any(axis=1).sum()):
                raise ValueError(f"features of {bad} of {len(features)} images are not finite")
        few = evenly_by_class(labels, POINTS // len(result["classes"]))
        sides.append((features[few], labels[few]))
    return sides or None


def evenly_by_class(labels: np.ndarray, most: int) -> np.ndarray:
    """Choose up to `most` images of each class, evenly spread, so that a small one is seen as well; rows, int (M,)."""
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.concatenate([rows[evenly(len(rows), most)] for rows in members])
