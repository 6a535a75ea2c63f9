"""Our figures beside the paper's Tables 2 and 3, where the data set is theirs (FU-SRS). Torch-free."""

from collections.abc import Mapping, Sequence

from sarsynth.evidence.chance import LEVEL
from sarsynth.evidence.published import PublishedRow, is_fu_srs, published, published_gains, test_images
from sarsynth.evidence.results import MEANS
from sarsynth.report import rows
from sarsynth.report.pieces import Cell, Note, Piece, Table, decimals, percent, points
from sarsynth.report.rows import Row
from sarsynth.report.sweep import Sweep

PREFIX = "paper_"  # of the columns of results.csv that are the paper's
NOTES = (
    "The paper's intervals are over its test images alone: it has one run each, and says nothing of seeds. Counts "
    "follow from its precision and recall; where Table 2 alone has a row, from its F1, nearest to those of 2lora.",
    "The paper's scores are of a vote of checkpoints that were chosen on the test set, if the authors' release made "
    "them: evaluate.topk=release_vote; they are too good.",
)
OF_FID = (
    "The paper's FID are of features of images that were never normalised, and compare with those of "
    "fid.preprocess=release alone; its columns of fishing and dredger may be exchanged."
)


def paper_of(row: Row) -> PublishedRow | None:
    """What the paper says of the method of a row; None if that is of another data set, or not published."""
    images = {
        name: by_class["support"]["mean"]
        for name, by_class in row.result["classifier"]["per_class"].items()
        if "support" in by_class
    }
    return published(row.result["method"], row.result["split"]) if is_fu_srs(row.result["data"], images) else None


def paper_columns(row: Row) -> dict[str, Cell]:
    """The paper's figures by our columns of results.csv: scores, FID, gains over the baseline; none without any."""
    if (paper := paper_of(row)) is None:
        return {}
    cells = {
        _column(name): Cell(found.value, percent, interval=(found.low, found.high))
        for name, found in paper.scores.items()
    }
    cells |= {f"fid_{name}": Cell(value, decimals(4)) for name, value in paper.fid.items()}
    baseline = row.result["protocol"]["baseline"]
    gains = published_gains(row.result["method"], baseline, row.result["split"]) if baseline else None
    return cells | {
        f"gain_{_column(name)}": Cell(gain.delta, points, interval=(gain.low, gain.high))
        for name, gain in (gains or {}).items()
    }


def _column(name: str) -> str:
    """The column of a figure of the paper: of F1, if it is named after a class."""
    return name if name in MEANS else f"f1_{name}"


def csv_columns(row: Row) -> dict[str, float | str | None]:
    """The paper's figures for results.csv; each gain and score with both ends of its interval."""
    found: dict[str, float | str | None] = {}
    for column, cell in paper_columns(row).items():
        found[f"{PREFIX}{column}"] = cell.value
        score = column.removeprefix("gain_")
        gain = column.removesuffix(score)
        if cell.interval:  # named as ours: gain_low_f1_tanker
            low, high = cell.interval
            found |= {f"{PREFIX}{gain}low_{score}": low, f"{PREFIX}{gain}high_{score}": high}
    return found


def in_paper(sweep: Sweep) -> bool:
    """Whether the paper has a figure of one of the rows."""
    return any(paper_of(row) for row in sweep.rows)


def beside_paper(sweep: Sweep) -> list[Piece]:
    """Scores and gains beside those of the paper's Tables 2 and 3, arXiv 2311.17486, on its own data set.

    Intervals of 95 %: here over test images and seeds, in the paper over test images alone.
    """
    if not in_paper(sweep):
        return []
    tables = [table for table in (scores_beside(sweep), gains_beside(sweep), distances_beside(sweep)) if table]
    return [*(Note(line) for line in [*other_images(sweep), *NOTES]), *tables]


def scores_beside(sweep: Sweep) -> Table:
    """F1 of each class and the means, ours and the paper's."""
    titles = rows.scored(sweep.rows)
    caption = f"F1 in % beside the paper's; small: {100 * (1 - LEVEL):.0f} % intervals"
    return _beside(sweep.rows, caption, titles, list(titles))


def gains_beside(sweep: Sweep) -> Table | None:
    """Gains over the baseline, ours and the paper's; None where the paper has none."""
    titles = rows.scored(sweep.rows)
    compared = [row for row in sweep.rows if any(column.startswith("gain_") for column in paper_columns(row))]
    if not compared:
        return None
    over = ", ".join(dict.fromkeys(row.result["protocol"]["baseline"] for row in compared))
    caption = f"Gain over {over} in points beside the paper's, {100 * (1 - LEVEL):.0f} % intervals"
    return _beside(compared, caption, titles, [f"gain_{column}" for column in titles])


def distances_beside(sweep: Sweep) -> Table | None:
    """FID of each class, ours and the paper's Table 2; None where no row is in it."""
    found = [row for row in sweep.rows if (paper := paper_of(row)) and paper.fid]
    if not found:
        return None
    titles = {name: name for name in test_images() if any(f"fid_{name}" in paper_columns(row) for row in found)}
    table = _beside(found, "FID of each class beside the paper's Table 2", titles, [f"fid_{name}" for name in titles])
    return Table(table.caption, table.columns, table.rows, folded=True, notes=[OF_FID])


def other_images(sweep: Sweep) -> list[str]:
    """Say so if these are not as many test images as the paper has."""
    (first, *_) = [row for row in sweep.rows if paper_of(row)]
    known = test_images()
    own = {name: int(first[f"support_{name}"].value or 0) for name in known}
    if own == known:
        return []
    sizes = [", ".join(f"{name} {count:,}" for name, count in counts.items()) for counts in (own, known)]
    return [f"Other test images than the paper's: {sizes[0]}, the paper has {sizes[1]}."]


def _beside(of_rows: Sequence[Row], caption: str, titles: Mapping[str, str], columns: Sequence[str]) -> Table:
    """A line of ours and one of the paper's for each row."""
    lines: list[list[Cell | str]] = []
    for row in of_rows:
        paper = paper_of(row)
        lines.append([Cell(row.name), Cell("here"), *(row[column] for column in columns)])
        if paper:
            theirs, table = paper_columns(row), " and ".join(map(str, paper.tables))
            lines.append([Cell(row.name), Cell(f"paper, Table {table}"), *(theirs.get(c, Cell()) for c in columns)])
    return Table(caption, ["method", "of", *titles.values()], lines)
