"""Tables: what stands in which cell."""

from typing import Any

from rich.console import Console

from sarsynth.report import csv, latex, terminal
from sarsynth.report.html import _environment
from sarsynth.report.pieces import WARNING, Cell, Table, percent
from sarsynth.report.rows import Row, cheaper, distances
from sarsynth.report.terminal import counts_table


def test_counts_stand_by_split_and_class_with_their_sum() -> None:
    counts = {"train": {"cargo": 3890, "tanker": 315}, "test": {"cargo": 772, "tanker": 59}}
    console = Console(width=100)
    with console.capture() as captured:
        console.print(counts_table(counts, ["tanker"], "Images"))
    rows = [line.split() for line in captured.get().splitlines() if line.strip(" ─")]
    assert rows == [
        ["Images"],
        ["split", "cargo", "tanker*", "total"],
        ["train", "3,890", "315", "4,205"],
        ["test", "772", "59", "831"],
    ]


def row(name: str, minor: float | None, macro: float, *, synthetic: bool) -> Row:
    scores: dict[str, Any] = {"per_class": {}, "accuracy": {"mean": 0.5, "std": 0.0, "values": [0.5]}}
    scores |= {"minor_f1": {"mean": minor, "std": 0.01, "values": [minor]}}
    scores |= {"macro_f1": {"mean": macro, "std": 0.02, "values": [macro]}}
    fidelity = {
        "preprocess": "normalised",
        "width": 8,
        "pooled": None,
        "per_class": {"tanker": {}} if synthetic else {},
    }
    about = {"method": name, "base": "b", "data": "d", "split": "s", "seeds": [0], "protocol": {"leaks": None}}
    return Row(name, about | {"classes": [], "minor": [], "classifier": scores, "fidelity": fidelity})


def test_a_cheap_row_that_wins_is_named() -> None:
    cheap, better = row("resample", 0.52, 0.57, synthetic=False), row("none", 0.39, 0.60, synthetic=False)
    lora, plora = row("lora", 0.28, 0.41, synthetic=True), row("plora", 0.36, 0.47, synthetic=True)
    line = cheaper([better, cheap, lora, plora]) or ""
    assert "minor-class F1 of resample is 52.0±1.0, of the best synthetic set, plora, 36.0±1.0" in line
    assert cheaper([cheap, row("2lora", 0.53, 0.5, synthetic=True), lora]) is None, "synthesis is ahead"
    assert cheaper([cheap, better]) is None and cheaper([lora, plora]) is None, "nothing to compare"
    without = [row("none", None, 0.6, synthetic=False), row("lora", None, 0.6, synthetic=True)]
    assert "macro F1 of none is 60.0±2.0" in (cheaper(without) or ""), "no minor classes; equal is enough"


def figures(kid: float | None, fid: float | None, reliable: bool) -> dict[str, object]:
    return {"kid": kid, "fid": fid, "fid_reliable": reliable}


def test_fid_stands_alone_only_where_there_are_enough_images() -> None:
    def cells(pooled: object, preprocess: str = "normalised") -> tuple[str, str]:
        found = distances({"preprocess": preprocess, "width": 256, "pooled": pooled, "per_class": {}})
        kid, fid = (f"{found[key].text} {found[key].mark}".strip() for key in ("kid", "fid"))
        return kid, fid

    assert cells(None) == ("", "")
    assert cells(figures(0.1234, 18.906, True)) == ("0.1234", "18.91")
    assert cells(figures(0.1234, 18.906, False)) == ("0.1234", "n < 256")
    assert cells(figures(None, None, False)) == ("too few", "n < 256")
    assert cells(figures(0.1234, 0.9, True), "release") == ("0.1234 !", "0.90 !")


def test_one_table_reads_the_same_everywhere() -> None:
    score = Cell(0.612, percent, std=0.034, interval=(0.55, 0.66), mark="▲", meaning="p = 0.01")
    few = Cell(None, percent, missing="n < 8", meaning="fewer images than features")
    table = Table(
        "F1",
        ["method", "100 %", "FID"],
        [[Cell("a_b", mark=WARNING, meaning="leaks"), score, few], ["c", Cell(), Cell()]],
    )
    console = Console(width=80)
    with console.capture() as captured:
        console.print(terminal.render(table))
    lines = [line.split() for line in captured.get().splitlines() if line.strip(" ─")]
    assert lines == [
        ["F1"],
        ["method", "100", "%", "FID"],
        ["a_b", "!", "61.2±3.4▲", "n", "<", "8"],
        ["55.0…66.0"],
        ["c"],
    ]
    body = latex.tabular(table).splitlines()
    assert body[3] == r"method & 100 \% & FID \\"
    assert body[5] == r"a\_b$^{\dagger}$ & $61.2 \pm 3.4^{\uparrow}$ & $n < 8$ \\"
    assert body[6] == r" & {\scriptsize $[55.0, 66.0]$} &  \\" and body[7] == r"c &  &  \\"
    assert body[10] == r"\multicolumn{3}{l}{\footnotesize $^{\dagger}$ leaks} \\"
    html = _environment().get_template("pieces.html").module.table(table)
    assert 'data-value="0.612"><span>61.2</span><abbr class="mark" title="p = 0.01">▲' in html
    assert "<small>± 3.4\n55.0…66.0</small>" in html
    assert 'data-value=""><span>n &lt; 8</span><abbr class="mark" title="fewer images than features">?' in html
    assert csv.text([{"a": 1, "b": None}, {"c": "x,y"}]) == 'a,b,c\n1,,\n,,"x,y"\n'
