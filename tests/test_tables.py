"""Tables: what stands in which cell."""

from rich.console import Console

from sarsynth.runs.tables import counts_table


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
