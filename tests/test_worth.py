"""What a method is worth in real images: known answers, ends of the curve, where it is read from, what is told."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_records import make_records
from test_report import fabricate
from test_significance import MINOR, guesses, stored

from sarsynth.config.composition import settings_of
from sarsynth.data.records import class_counts, first_of_classes, minor_classes
from sarsynth.errors import UserError
from sarsynth.evidence.comparison import SIGNIFICANCE, point_of, read_or_compare
from sarsynth.evidence.results import RESULT
from sarsynth.evidence.significance import score
from sarsynth.evidence.worth import Worth, crossings, worth
from sarsynth.report import writing
from sarsynth.report.pieces import Note, Table
from sarsynth.report.plots import Plot
from sarsynth.report.responses import dose, learning_curve
from sarsynth.report.sweep import Sweep
from sarsynth.report.verdict import of_curve, verdict, worths
from sarsynth.stages.curate_images import counts, minor, training
from sarsynth.stages.study import Study
from sarsynth.tracking import Tracker

COUNTS = (3, 6, 12, 24, 48)
WORLD = ("data.train={cargo: 60, other: 40, fishing: 14, tanker: 13, dredger: 12}", "data.test=2", "base.image_size=32")


def gains_of(reaches: float) -> list[float]:
    """Gains over a curve that rises by 0.1 for each doubling, of a method that scores as `reaches` images do."""
    return [0.1 * np.log2(reaches / count) for count in COUNTS]


@pytest.mark.parametrize("reaches", [3.0001, 5, 6, 17, 24, 47])
def test_a_line_in_the_logarithm_is_read_exactly(reaches: float):
    assert crossings(np.array([gains_of(reaches)]), COUNTS) == pytest.approx([reaches])


def test_beyond_the_curve_its_end_is_a_bound_and_nothing_is_extrapolated():
    assert crossings(np.array([gains_of(500), gains_of(48.01), gains_of(1), gains_of(3)]), COUNTS).tolist() == [
        48,
        48,
        3,
        3,
    ]
    above, below = Worth(6, 48, 30, 48, 3, 48), Worth(6, 3, 3, 7.5, 3, 48)
    assert [of_curve(images, vars(above), "more") for images in (48, 30)] == ["≥ +42", "+24"]
    assert [of_curve(images, vars(below)) for images in (3, 7.5)] == ["≤ 3", "7.5"]
    assert of_curve(48, vars(above), "times") == "≥ 8.00"


def test_points_that_fall_are_averaged():
    """As isotonic regression has them: the second and third point of the curve become one."""
    wavy = np.array([[0.2, -0.06, 0.1, -0.2, -0.3]])
    levelled = np.array([[0.2, 0.02, 0.02, -0.2, -0.3]])
    assert crossings(wavy, COUNTS) == pytest.approx(crossings(levelled, COUNTS))
    assert 12 < crossings(wavy, COUNTS)[0] < 24


def test_a_method_is_worth_as_many_images_as_the_row_that_it_equals_and_a_better_one_more():
    curve = {
        count: score(guesses(0.5 + 0.2 * place), MINOR, replicates=200, seed=0)
        for place, count in enumerate((4, 8, 16))
    }
    read = [worth(curve[count], 4, curve, seed=0) for count in curve]
    assert [one and one.reaches for one in read] == pytest.approx([4, 8, 16])
    assert read[1] and (read[1].images, read[1].first, read[1].last) == (4, 4, 16)
    better = worth(score(guesses(0.8, seed=3), MINOR, replicates=200, seed=0), 4, curve, seed=0)
    assert better and 8 < better.reaches < 16 and better.low < better.reaches < better.high
    assert worth(curve[8], 4, {8: curve[8]}, seed=0) is None, "one point is no curve"
    assert worth(score(guesses(0.6), [], replicates=200, seed=0), 4, curve, seed=0) is None, "no class is minor"


def test_intervals_hold_the_truth():
    """More is measured by the benchmark itself, of which this is a small part."""
    spec = importlib.util.spec_from_file_location("worth_benchmark", Path(__file__).parents[1] / "benchmarks/worth.py")
    assert spec and spec.loader
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    found = [benchmark.study(benchmark.WORLDS[0], seed) for seed in range(30)]
    assert sum(one.low <= 12 <= one.high for one in found) >= 26
    assert 10 < np.median([one.reaches for one in found]) < 14
    assert 0 < np.mean([np.log2(one.high / one.low) for one in found]) < 2, "and are no wider than need be"


def test_the_curve_is_the_baseline_at_the_same_other_overrides(tmp_path: Path):
    rows = [
        stored(tmp_path, guesses(right, seed=number), method, number, overrides, baseline="resample")
        for number, (method, overrides, right) in enumerate(
            [
                ("resample", "data.minor_images=3 data.split=deci", 0.5),
                ("resample", "data.minor_images=6 data.split=deci", 0.6),
                ("resample", "data.minor_images=12 data.split=deci", 0.8),
                ("lora", "data.minor_images=3 data.split=deci", 0.7),
                ("resample", "data.minor_images=3 data.split=train", 0.9),
                ("lora", "data.minor_images=3 data.split=train", 0.9),
                ("lora", "data.split=deci", 0.9),
            ]
        )
    ]
    found = read_or_compare(rows, tmp_path, tmp_path / SIGNIFICANCE)["rows"]
    assert [row["worth"] is not None for row in found] == [False] * 3 + [True] + [False] * 3
    assert found[3]["baseline"] == "0", "gains are over the row of as many images"
    assert 6 < found[3]["worth"]["reaches"] < 12 and found[3]["worth"]["images"] == 3
    shown = [
        SimpleNamespace(entry=row, overrides=row["overrides"], result=job.result)
        for row, job in zip(found, rows, strict=True)
    ]
    (line,) = worths(shown)  # type: ignore[arg-type]
    assert line.startswith(
        "with 3 real images of each minor class, lora data.split=deci reaches the minor-class F1 that resample"
    )


def test_a_curve_of_a_generator_is_none(tmp_path: Path):
    rows = [
        stored(tmp_path, guesses(0.5, seed=number), method, number, f"data.minor_images={count}", baseline="lora")
        for number, (method, count) in enumerate([("lora", 3), ("lora", 6), ("plora", 3)])
    ]
    for row in rows:
        row.result["sample_seeds"] = [0]  # type: ignore[index]
        row.result["generator_seeds"] = [0]  # type: ignore[index]
    assert [row["worth"] for row in read_or_compare(rows, tmp_path, tmp_path / SIGNIFICANCE)["rows"]] == [None] * 3


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ("data.minor_images=12", (12, "")),
        ("a=1 data.minor_images=3 b=[1, 2]", (3, "a=1 b=[1, 2]")),
        ("data.minor_images=null", (None, "data.minor_images=null")),
        ("own.data.minor_images=3", (None, "own.data.minor_images=3")),
    ],
)
def test_a_number_is_found_among_overrides(overrides: str, expected: tuple[float | None, str]):
    assert point_of("data.minor_images", overrides) == expected


# --- The images that are left -----------------------------------------------------------------------------------------


def test_more_images_hold_the_fewer_and_other_classes_keep_theirs():
    records, sizes = make_records({"cargo": 60, "tanker": 13, "dredger": 12}), {"cargo": 60, "tanker": 6, "dredger": 6}
    six, twelve, other = (
        first_of_classes(records, list(sizes), ["tanker", "dredger"], count, seed)
        for count, seed in [(6, 0), (12, 0), (6, 1)]
    )
    assert class_counts(six, list(sizes)) == class_counts(other, list(sizes)) == sizes
    assert set(six) < set(twelve) < set(records) and set(six) != set(other)
    assert six == [record for record in records if record in six], "in their order"
    assert first_of_classes(records, list(sizes), [], 6, 0) == records


def test_a_study_learns_from_what_is_left(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = Study(settings_of("evaluate", ["method=none", *WORLD, "data.minor_images=6"]), Tracker(None))
    assert counts(study) == {"cargo": 60, "other": 40, "fishing": 6, "tanker": 6, "dredger": 6}
    assert minor(study) == ["fishing", "tanker", "dredger"]
    every = Study(settings_of("evaluate", ["method=none", *WORLD]), Tracker(None))
    of_minor = [record for record in training(every, "sar") if record.label > 1]
    assert len(of_minor) == 14 + 13 + 12 and set(training(study, "sar")) < set(training(every, "sar"))


def test_which_are_left_has_a_seed_of_its_own():
    assert settings_of("evaluate", ["seed=3"]).data.minor_seed == 3
    assert settings_of("evaluate", ["seed=3", "data.minor_seed=0"]).data.minor_seed == 0


def test_more_than_there_are_is_one_clear_line():
    with pytest.raises(UserError, match=r"data\.minor_images=13: class b has 12 training images; say 12 or less"):
        first_of_classes(make_records({"a": 60, "b": 12, "c": 20}), "abc", ["b", "c"], 13, 0)


def test_minor_classes_stay_minor_whatever_is_left_of_them():
    rng = np.random.default_rng(0)
    for _ in range(50):
        sizes = {f"class {label}": int(size) for label, size in enumerate(rng.integers(2, 300, size=5))}
        few = minor_classes(sizes, "auto")
        kept = first_of_classes(
            make_records(sizes), list(sizes), few, int(rng.integers(1, 1 + min([*map(sizes.get, few), 2]))), 0
        )
        assert minor_classes(class_counts(kept, list(sizes)), "auto") == few


# --- What the report shows --------------------------------------------------------------------------------------------


def varied(folder: Path, *said: str) -> Sweep:
    """A sweep of two rows of `resample` and one of `plora`, better than both, that say these things."""
    sweep = fabricate(folder)
    for job, (method, override) in enumerate(zip(["resample", "resample", "plora"], said, strict=True)):
        (sweep / f"{job}/.hydra/overrides.yaml").write_text(f"- method={method}\n- {override}\n")
        result = json.loads((sweep / f"{job}/{RESULT}").read_text())
        result["protocol"]["baseline"] = "resample"
        (sweep / f"{job}/{RESULT}").write_text(json.dumps(result | {"method": method}))
    return Sweep.read(sweep, sweep.parents[2] / "store")


def test_the_report_says_what_a_method_is_worth(tmp_path: Path, monkeypatch):
    known = [section for section in writing.SECTIONS if section[0] in ("gains", "worth", "dose")]
    monkeypatch.setattr(writing, "SECTIONS", known)
    sweep = varied(tmp_path, "data.minor_images=3", "data.minor_images=6", "data.minor_images=3")
    note, plot, table = learning_curve(sweep)
    assert isinstance(note, Note) and isinstance(plot, Plot) and isinstance(table, Table)
    assert note.text.startswith(
        "with 3 real images of each minor class, plora reaches the minor-class F1 that resample"
    )
    assert "it is worth ≥ +3 real images (" in note.text, "the curve ends below it"
    assert [cell.text for cell in table.cells[0]] == ["plora", "3", "≥ 6", "≥ +3", "≥ 2.00"]
    assert plot.figure.axes[0].get_xscale() == "log"
    assert [text.get_text() for text in plot.figure.axes[0].get_xticklabels()] == ["3", "6"]
    (arrow,) = plot.figure.axes[0].texts
    (start, low), (end, high) = arrow.xyann, arrow.xy  # type: ignore[attr-defined]
    assert (start, end) == (3, 6) and low == high, "from what it has to what it is worth, at its height"
    assert verdict(sweep.rows) == [note.text], "rows of more images are not ahead of rows of fewer"
    assert dose(sweep) == []
    page = writing.write(sweep)[0].read_text()
    assert 'id="worth"' in page and 'id="dose"' not in page
    assert (sweep.folder / "plots/learning_curve.png").exists()


def test_the_report_shows_how_scores_respond_to_the_share(tmp_path: Path):
    sweep = varied(tmp_path, "augment.share=0.5", "augment.share=0.0", "augment.share=0.0")
    (plot,) = dose(sweep)
    assert isinstance(plot, Plot) and learning_curve(sweep) == []
    line, alone = plot.figure.axes[0].lines
    assert alone.get_xdata().tolist() == [0]
    assert line.get_xdata().tolist() == [0, 0.5], "in their order"
    by_share = {row.overrides: row for row in sweep.rows if row.result["method"] == "resample"}
    expected = [by_share[f"augment.share={share}"]["minor_f1"] for share in ("0.0", "0.5")]
    assert line.get_ydata().tolist() == pytest.approx([100 * cell.value for cell in expected])
    band, _ = plot.figure.axes[0].collections
    ends = {round(100 * end, 6) for cell in expected for end in cell.interval or ()}
    assert ends <= {round(float(y), 6) for y in band.get_paths()[0].vertices[:, 1]}
    titles = ["minor*", "tanker*", "<b>buoy & co</b>*", "macro"]
    assert [axes.get_title(loc="left") for axes in plot.figure.axes] == titles


def test_other_sweeps_have_no_such_sections(tmp_path: Path):
    folder = fabricate(tmp_path)
    sweep = Sweep.read(folder, folder.parents[2] / "store")
    assert learning_curve(sweep) == dose(sweep) == []
