"""Tables: what stands in which cell."""

from typing import Any

from rich.console import Console

from sarsynth.report.tables import cheaper, counts_table, fidelity_cells


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


def row(minor: float | None, macro: float, *, synthetic: bool) -> dict[str, Any]:
    figures = {"minor_f1": {"mean": minor, "std": 0.01}, "macro_f1": {"mean": macro, "std": 0.02}}
    return {"classifier": figures, "fidelity": {"per_class": {"tanker": {}} if synthetic else {}}}


def test_a_cheap_row_that_wins_is_named() -> None:
    cheap, better = ("resample", row(0.52, 0.57, synthetic=False)), ("none", row(0.39, 0.60, synthetic=False))
    lora, plora = ("lora", row(0.28, 0.41, synthetic=True)), ("plora", row(0.36, 0.47, synthetic=True))
    line = cheaper([better, cheap, lora, plora]) or ""
    assert "minor-class F1 of resample is 52.0±1.0, of the best synthetic set, plora, 36.0±1.0" in line
    assert cheaper([cheap, ("2lora", row(0.53, 0.5, synthetic=True)), lora]) is None, "synthesis is ahead"
    assert cheaper([cheap, better]) is None and cheaper([lora, plora]) is None, "nothing to compare"
    without = [("none", row(None, 0.6, synthetic=False)), ("lora", row(None, 0.6, synthetic=True))]
    assert "macro F1 of none is 60.0±2.0" in (cheaper(without) or ""), "no minor classes; equal is enough"


def figures(kid: float | None, fid: float | None, reliable: bool) -> dict[str, object]:
    return {"kid": kid, "fid": fid, "fid_reliable": reliable}


def test_fid_stands_alone_only_where_there_are_enough_images() -> None:
    def cells(pooled: object, preprocess: str = "normalised") -> tuple[str, str]:
        return fidelity_cells({"preprocess": preprocess, "width": 256, "pooled": pooled})

    assert cells(None) == ("", "")
    assert cells(figures(0.1234, 18.906, True)) == ("0.123", "18.91")
    assert cells(figures(0.1234, 18.906, False)) == ("0.123", "n < 256")
    assert cells(figures(None, None, False)) == ("too few", "n < 256")
    assert cells(figures(0.1234, 0.9, True), "release") == ("0.123 (release input)", "0.90 (release input)")
