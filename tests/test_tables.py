"""Tables: what stands in which cell."""

from rich.console import Console

from sarsynth.runs.tables import counts_table, fidelity_cells


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
