"""What the paper's Table 3 shows: gains of its rows, with intervals that know of the test images alone.

python benchmarks/published.py
"""

from itertools import product

from sarsynth.console import console
from sarsynth.evidence.published import table3
from sarsynth.evidence.significance import compare
from sarsynth.report import terminal
from sarsynth.report.pieces import Cell, Table
from sarsynth.report.rows import gain_cell

MINOR = ("fishing", "tanker", "dredger")
REPLICATES = 2000


def main() -> None:
    """Print the table."""
    known = table3()
    rows: list[list[Cell | str]] = []
    for (method, split), base in product(known, ("resample", "2lora")):
        if method != base and (base, split) in known:
            found = compare(known[method, split], known[base, split], MINOR, replicates=REPLICATES, seed=0)
            gains = [*(found.per_class[name] for name in MINOR), found.minor_f1, found.macro_f1, found.accuracy]
            rows.append([split, method, base, *(gain_cell(vars(gain)) for gain in gains if gain)])
    columns = ["split", "method", "over", *MINOR, "minor", "macro", "accuracy"]
    caption = "Gains in F1 in points of a percent, and their 95 % intervals over test images"
    console.print(terminal.render(Table(caption, columns, rows)))


if __name__ == "__main__":
    main()
