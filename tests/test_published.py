"""Our rows beside the paper's, on a tiny stand-in of its data set: the same class names, other images."""

from types import SimpleNamespace
from typing import Any

import pytest

from sarsynth.evidence.published import (
    MINOR,
    is_fu_srs,
    likely_counts,
    lines,
    published,
    published_gains,
    table2,
    table3,
)
from sarsynth.evidence.published import test_images as images_of_paper
from sarsynth.report import closing, terminal
from sarsynth.report.csv import text
from sarsynth.report.published import beside_paper, csv_columns, in_paper, paper_of
from sarsynth.report.rows import Row
from sarsynth.report.writing import SECTIONS

SIZES = {"cargo": 772, "other": 216, "fishing": 161, "tanker": 59, "dredger": 52}


def row(method: str, data: str = "fusrs", split: str = "train", baseline: str = "resample", images: Any = None) -> Row:
    """A row of a stand-in that has two test images a class, unless told otherwise."""

    def spread(value: float) -> dict[str, Any]:
        return {"mean": value, "std": 0.0, "values": [value]}

    sizes = images or dict.fromkeys(SIZES, 2)
    figures = ("precision", "recall", "f1")
    per_class = {
        name: {**{figure: spread(0.5) for figure in figures}, "support": spread(size)} for name, size in sizes.items()
    }
    result = {
        "method": method,
        "base": "sd-nano",
        "data": data,
        "split": split,
        "seeds": [0, 1],
        "classes": list(sizes),
        "minor": list(MINOR),
        "protocol": {"leaks": None, "baseline": baseline},
        "classifier": {"per_class": per_class, **{name: spread(0.5) for name in ("macro_f1", "minor_f1", "accuracy")}},
        "fidelity": {"preprocess": "normalised", "width": 8, "pooled": None, "per_class": {}},
    }
    return Row(method, result, entry={"note": None})


def sweep(*rows: Row) -> Any:
    return SimpleNamespace(rows=list(rows), significance={"open": []}, elsewhere=None)


# --- What is published ------------------------------------------------------------------------------------------------


def test_figures_are_the_papers_to_all_digits() -> None:
    for line in lines():
        paper = published(line["method"], line["split"])
        assert paper is not None and int(line["table"]) in paper.tables
        if line["f1"]:
            assert paper.scores[line["class"]].value == pytest.approx(float(line["f1"]), abs=1.01e-4)
        if line["fid"]:
            assert paper.fid[line["class"]] == float(line["fid"])
    averages = {"2lora": 0.7153, "clora": 0.7132, "plora_uniform": 0.7196, "plora": 0.7327}  # Table 2's own column
    for method, average in averages.items():
        paper = published(method, "train")
        assert paper is not None and paper.scores["minor_f1"].value == pytest.approx(average, abs=1e-4)
    assert images_of_paper() == SIZES and published("none", "train") is None and published("2lora", "deci") is None


def test_a_row_of_both_tables_has_the_counts_of_table_3() -> None:
    for method in ("2lora", "plora"):
        one, other = table2()[method, "train"], table3()[method, "train"]
        minor = [list(SIZES).index(name) for name in MINOR]
        for label in minor:
            assert (one.predicted == label).sum() == (other.predicted == label).sum()
            assert ((one.predicted == label) & (one.labels == label)).sum() == (
                (other.predicted == label) & (other.labels == label)
            ).sum()
    assert set(published("clora", "train").scores) == {*MINOR, "minor_f1"}  # type: ignore[union-attr]


def test_counts_of_an_f1_are_those_nearest_to_others() -> None:
    assert likely_counts(0.5, 10, (5, 10)) == (5, 10)
    assert likely_counts(0.5, 10, (4, 6)) == (4, 6), "2 x 4 / (6 + 10)"
    with pytest.raises(ValueError, match="no counts of 3 images make F1 0.9"):
        likely_counts(0.9, 3, (3, 3))


def test_gains_are_of_what_both_rows_have() -> None:
    whole, minor = published_gains("plora", "resample", "train"), published_gains("clora", "2lora", "train")
    assert whole is not None and set(whole) == {*SIZES, "minor_f1", "macro_f1", "accuracy"}
    assert whole["fishing"].delta == pytest.approx(0.7153 - 0.6553, abs=3e-4)
    assert minor is not None and set(minor) == {*MINOR, "minor_f1"}
    assert minor["fishing"].delta == pytest.approx(0.7197 - 0.7063, abs=3e-4)
    assert minor["fishing"].low < 0 < minor["fishing"].high
    assert published_gains("plora", "plora", "train") is published_gains("2lora", "resample", "deci") is None


# --- Beside ours ------------------------------------------------------------------------------------------------------


def test_the_data_set_is_known_by_its_name_or_its_counts() -> None:
    few = dict.fromkeys(SIZES, 2.0)
    assert is_fu_srs("fusrs", few) and is_fu_srs("fu_srs", few)
    assert not is_fu_srs("sim", few), "whose classes have the same names"
    assert is_fu_srs("mine", SIZES)
    assert not is_fu_srs("fusrs", {"cargo": 2.0, "tug": 2.0})
    assert paper_of(row("plora")) is not None
    assert paper_of(row("plora", data="sim")) is paper_of(row("none")) is paper_of(row("2lora", split="deci")) is None


def test_ours_and_the_papers_stand_one_below_the_other() -> None:
    study = sweep(row("resample"), row("plora"), row("none"))
    assert in_paper(study) and not in_paper(sweep(row("plora", data="sim")))
    found = beside_paper(study)
    scores, gains, distances = found[-3:]
    assert [[cell.text for cell in line[:2]] for line in scores.cells] == [  # type: ignore[attr-defined]
        ["resample", "here"],
        ["resample", "paper, Table 3"],
        ["plora", "here"],
        ["plora", "paper, Table 2 and 3"],
        ["none", "here"],
    ]
    lines = [[cell.text for cell in line[2:]] for line in scores.cells]  # type: ignore[attr-defined]
    assert lines[3] == ["91.8", "74.7", "71.5", "63.8", "84.5", "73.3", "77.3", "84.8"] and lines[2] == ["50.0"] * 8
    assert [cell.text for cell in gains.cells[1]][4:6] == ["+6.0", "+2.8"]  # type: ignore[attr-defined]
    assert [cell.text for cell in distances.cells[1]][2:] == ["0.8474", "0.9344", "0.9262", "0.9390"]  # type: ignore[attr-defined]
    assert "the paper has cargo 772, other 216" in found[0].text  # type: ignore[attr-defined]
    assert not any("Other test images" in str(piece) for piece in beside_paper(sweep(row("plora", images=SIZES))))


def test_report_closing_table_and_csv_have_them(capsys: pytest.CaptureFixture[str]) -> None:
    study, other = sweep(row("clora", baseline="2lora")), sweep(row("plora", data="sim"))
    assert [pieces for anchor, _, pieces in SECTIONS if anchor == "paper"] == [beside_paper]
    assert beside_paper(other) == [], "a section without pieces is left out"
    closing.show_gains(study)
    assert "paper, Table 2" in capsys.readouterr().out
    closing.show_gains(other)
    assert "paper" not in capsys.readouterr().out
    columns = csv_columns(study.rows[0])
    assert columns["paper_f1_fishing"] == pytest.approx(0.7197, abs=1e-4) and "paper_f1_cargo" not in columns
    assert columns["paper_low_f1_fishing"] < columns["paper_f1_fishing"] < columns["paper_high_f1_fishing"]  # type: ignore[operator]
    assert columns["paper_gain_low_minor_f1"] < columns["paper_gain_minor_f1"]  # type: ignore[operator]
    assert columns["paper_fid_cargo"] == 0.8402 and csv_columns(other.rows[0]) == {}
    assert text([columns]).startswith("paper_f1_fishing,paper_low_f1_fishing,paper_high_f1_fishing,")
    assert terminal.render(beside_paper(study)[-2]).row_count == 2  # type: ignore[arg-type]
