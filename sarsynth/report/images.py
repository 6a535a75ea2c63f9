"""The images themselves: samples, scale strips, nearest real neighbours, a map of features."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open

from sarsynth.errors import UserError
from sarsynth.evidence.results import REASONS
from sarsynth.report import jobs, pages, plots
from sarsynth.report.jobs import reading
from sarsynth.report.pages import Cell, Gallery, Note, Picture, Piece, Plot, Section, Table
from sarsynth.report.sweep import ROWS, Sweep, distance_cells, figure_cell

SHOWN = 6  # images of a class in a strip
TILE = 128  # px: larger images are made smaller in strips
STRIP = 900  # px of the longer side of a picture that a job left
POINTS = 200  # images of a set in the map of features, as many of each class
_FILTERED = ("method", "images", "KID", "FID", "near-copies by features", "by pixels")


def samples(sweep: Sweep) -> Section:
    """Images of each class and method, real ones first."""
    about = "The first images of each set, not chosen by anybody. Equal places start from equal noise."
    strips: dict[str, dict[str, np.ndarray]] = {name: {} for name in sweep.classes}
    seen: set[str] = set()
    wrong: dict[str, None] = {}
    for result in sweep.results:
        try:
            for class_name, images in _real_images(sweep, result).items():
                strips[class_name].setdefault("real", images)
        except UserError as error:
            wrong[f"Without real images: {error}."] = None
    for name, result in zip(sweep.rows, sweep.results, strict=True):
        made = result["inputs"].get("synthetic")
        folder = sweep.artifact(made)
        if folder is not None and made not in seen:
            seen.add(made)
            try:
                for a_class in jobs.read_set(folder, SHOWN):
                    strips[a_class.name][name] = np.stack(a_class.images)
            except UserError as error:
                wrong[f"Without {name}: {error}."] = None
    pieces: list[Piece] = [*map(Note, wrong)]
    pieces += [
        Gallery(
            sweep.title(class_name),
            [Picture(contact_strip(images, f"{class_name}: {name}"), name) for name, images in by_name.items()],
        )
        for class_name, by_name in strips.items()
        if by_name
    ]
    return Section("samples", "Images", about, pieces or [sweep.absent])


def _real_images(sweep: Sweep, result: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The first real training images of each class, from the cache that a classifier was trained on."""
    if (train := _train(sweep, result)) is not None:
        with _tensors(train / "images.safetensors") as file:
            labels, images = file.get_tensor("labels"), file.get_slice("images")
            return {
                name: np.stack([images[int(index)] for index in np.flatnonzero(labels == label)[:SHOWN]])
                for label, name in enumerate(result["classes"])
                if (labels == label).any()
            }
    return {}


def _train(sweep: Sweep, result: Mapping[str, Any]) -> Path | None:
    """The real training images of a row, as its classifiers saw them."""
    for seed in result["seeds"]:
        card = sweep.card(result["inputs"].get(f"seed_{seed}", ""))
        if card and (folder := sweep.artifact(card["inputs"].get("train"))):
            return folder
    return None


@contextmanager
def _tensors(file: Path) -> Iterator[Any]:
    """Open a file of tensors that is right inside an artifact."""
    with reading(file, file.parent), safe_open(file, framework="numpy") as tensors:
        yield tensors


def contact_strip(images: np.ndarray, alt: str) -> pages.Markup:
    """Put images, uint8 (N, 1 or 3, H, W), side by side."""
    joined = np.concatenate(list(images.transpose(0, 2, 3, 1)), axis=1)
    picture = Image.fromarray(joined[..., 0] if joined.shape[2] == 1 else joined)
    return pages.image(picture, alt, largest=TILE * len(images))


def strips(sweep: Sweep) -> Section:
    """What the scale of the adapters does."""
    about = "One noise a row, the scale of the whole stack of adapters from none to full."
    pieces = [
        gallery
        for name, job in zip(sweep.rows, sweep.jobs, strict=True)
        if (gallery := _left(job.folder, "strip_*.png", name, "scales of "))
    ]
    return Section("strips", "Scale strips", about, _some(pieces) or [Note("No row here has adapters.")])


def _left(folder: Path, pattern: str, name: str, what: str) -> Gallery | None:
    """Pictures that a job left in its folder."""
    found = []
    for file in sorted(folder.glob(pattern)):
        subject = file.stem.partition("_")[2] or file.stem
        with Image.open(file) as picture:
            found.append(Picture(pages.image(picture, f"{what}{name}, {subject}", largest=STRIP), subject))
    return Gallery(name, found, folded=True) if found else None


def memorisation(sweep: Sweep) -> Section:
    """Whether synthetic images are copies, and how varied they are; what a filter dropped."""
    about = (
        "Nearest real training image of each synthetic one. A near-copy is nearer than all but a few real images are "
        "to each other. Diversity is the mean distance of two images of a class in features."
    )
    table: list[list[Cell | str]] = []
    diverse: list[list[Cell | str]] = []
    joined: list[list[Cell | str]] = []
    dropped: list[list[Cell | str]] = []
    notes: list[Piece] = []
    pairs: list[Piece] = []
    for row, result in zip(sweep.rows, sweep.results, strict=True):
        if found := result["memorisation"]:
            for space, figures in found["spaces"].items():
                values = [figures[key] for key in ("near_copies", "synthetic", "real")]
                cells = [Cell(f"{100 * values[0]:.1f} %", values[0]), *(figure_cell(value) for value in values[1:])]
                table.append([Cell(row, detail=space), *cells])
            diverse.append([row, *(_diversity(found["per_class"].get(name)) for name in sweep.classes)])
            kept = result["filter"]["per_class"]
            joined.append([Cell(row, detail=result["filter"]["name"]), *(_joined(kept.get(n)) for n in sweep.classes)])
            pairs += _pairs(sweep, row, result)
            if result["filter"]["name"] != "none":
                dropped += _before_and_after(row, result)
                notes += _reasons(sweep, row, result)
    if not table:
        return Section("memorisation", "Copies and diversity", about, [Note("No row has synthetic images.")])
    columns = ["method", "near-copies", "median distance", "of real images"]
    by_class = ["method", *map(sweep.title, sweep.classes)]
    return Section(
        "memorisation",
        "Copies and diversity",
        about,
        [
            Table("Distance to the nearest real image", columns, table),
            Table("Diversity of synthetic images, and of real ones", by_class, diverse),
            Table("Images that joined the real ones, by filter", by_class, joined),
            *([Table("All images of a set, and those that its filter keeps", _FILTERED, dropped)] if dropped else []),
            *notes,
            *_some(pairs),
        ],
    )


def _before_and_after(row: str, result: Mapping[str, Any]) -> list[list[Cell | str]]:
    """What a filter does to the numbers: a line for all images, if the result has it, and one for those kept."""
    before, counts = result["filter"].get("before"), result["filter"]["per_class"].values()
    lines: list[list[Cell | str]] = []
    for found, title, key in ((before, "all", "made"), (result, f"kept by {result['filter']['name']}", "kept")):
        if found:
            number = sum(one[key] for one in counts)
            fid, kid = distance_cells(found)
            spaces = found["memorisation"]["spaces"]
            near = [(spaces.get(space) or {}).get("near_copies") for space in ("features", "pixels")]
            shares = ["" if one is None else Cell(f"{100 * one:.1f} %", one) for one in near]
            lines.append([Cell(row, detail=title), Cell(f"{number:,}", number), kid, fid, *shares])
    return lines


def _reasons(sweep: Sweep, row: str, result: Mapping[str, Any]) -> list[Piece]:
    verdicts = sweep.artifact(result["inputs"].get("filter"))
    told = [
        sweep.absent if verdicts is None else Note(f"{row}: why an image was dropped stands in {verdicts}/{REASONS}.")
    ]
    before = Note(f"{row}: its result is older and has no numbers of all images; run the sweep again.")
    return [*told, *([] if result["filter"].get("before") else [before])]


def _diversity(figures: Mapping[str, Any] | None) -> Cell | str:
    if figures is None:
        return ""
    own, real = (figures["diversity"][side] for side in ("synthetic", "real"))
    return "" if own is None else Cell(f"{own:.3g}", own, "" if real is None else f"real {real:.3g}")


def _joined(counts: Mapping[str, int] | None) -> Cell | str:
    if counts is None:
        return ""
    detail = f"of {counts['planned']} planned\n{counts['kept']} of {counts['made']} kept"
    return Cell(str(counts["joined"]), counts["joined"], detail)


def _pairs(sweep: Sweep, row: str, result: Mapping[str, Any]) -> list[Piece]:
    """The nearest pairs of a row: synthetic on the left, real on the right of each."""
    folder, train = sweep.artifact(result["inputs"].get("synthetic")), _train(sweep, result)
    if folder is None or train is None:
        return [sweep.absent]
    groups: dict[str, list[np.ndarray]] = {}
    try:
        with _tensors(train / "images.safetensors") as stored:
            images = stored.get_slice("images")
            for pair in result["memorisation"]["pairs"]:
                real, file = images[pair["real_row"]], folder / pair["synthetic"]
                with reading(file, folder), Image.open(file) as picture:
                    made = np.asarray(picture.resize(real.shape[:0:-1])).reshape(*real.shape[1:], -1).transpose(2, 0, 1)
                groups.setdefault(f"{pair['class']}, by {pair['space']}", []).extend([made, real])
    except UserError as error:
        return [Note(f"No nearest pairs of {row}: {error}.")]
    shown = [Picture(contact_strip(np.stack(both), f"{name}: {row}"), name) for name, both in groups.items()]
    return [Gallery(f"{row}: nearest pairs, synthetic and real", shown, folded=True)]


def _some(pieces: Sequence[Piece]) -> list[Piece]:
    """The first pieces with pictures of a row each; a page holds no more than it can carry."""
    more = [Note(f"Of the first {ROWS} rows; those of the others lie in their folders.")] * (len(pieces) > ROWS)
    return [*pieces[:ROWS], *more]


def feature_map(sweep: Sweep) -> Section:
    """Real and synthetic features in two dimensions."""
    about = (
        "t-SNE of the classifier's features: crosses are synthetic images, dots the real training images of the same "
        "class; large classes are thinned. Neighbourhoods mean something, distances and sizes of clusters do not."
    )
    real: tuple[np.ndarray, np.ndarray] | None = None
    sets: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    notes: list[Piece] = []
    for name, result in zip(sweep.rows, sweep.results, strict=True):
        try:
            if (stored := _features(sweep, result)) is not None:
                real, sets[name] = stored
        except UserError as error:
            notes.append(Note(f"Without {name}: {error}."))
    if real is None:
        nothing = Note("No row has stored features of synthetic images.")
        return Section("features", "Features", about, notes or [nothing])
    from sklearn.manifold import TSNE  # a second to import, and only here

    blocks = [real[0], *(features for features, _ in sets.values())]
    places = TSNE(init="pca", random_state=0, perplexity=min(30, (sum(map(len, blocks)) - 1) / 3)).fit_transform(
        np.concatenate(blocks).astype(np.float64)
    )
    split = np.split(places, np.cumsum([len(block) for block in blocks])[:-1])
    placed = {name: (points, labels) for points, (name, (_, labels)) in zip(split[1:], sets.items(), strict=True)}
    figure = plots.embedding(split[0], real[1], placed, sweep.results[0]["classes"])
    return Section(
        "features",
        "Features",
        about,
        [*notes, Plot("features", figure, "Map of real and synthetic features, a panel a method")],
    )


def _features(sweep: Sweep, result: Mapping[str, Any]) -> Any:
    card = sweep.card(result["inputs"].get("fidelity", ""))
    folders = [sweep.artifact(card["inputs"].get(side)) for side in ("real", "synthetic")] if card else []
    sides = []
    for folder in folders:
        if folder is None:
            return None
        file = folder / "features.safetensors"
        with _tensors(file) as tensors:
            features, labels = tensors.get_tensor("features"), tensors.get_tensor("labels")
            if bad := int((~np.isfinite(features)).any(axis=1).sum()):
                raise ValueError(f"features of {bad} of {len(features)} images are not finite")
        few = evenly(labels, POINTS // len(result["classes"]))
        sides.append((features[few], labels[few]))
    return sides or None


def evenly(labels: np.ndarray, most: int) -> np.ndarray:
    """Choose up to `most` images of each class, evenly spread, so that a small one is seen as well; rows, int (M,)."""
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.concatenate(
        [rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)] for rows in members]
    )
