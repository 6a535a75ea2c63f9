"""What the paper's Table 3 shows: gains of its rows, with intervals that know of the test images alone.

python benchmarks/published.py
"""

from itertools import product

from rich.table import Table

from sarsynth.console import console
from sarsynth.evidence.published import table3
from sarsynth.evidence.significance import compare
from sarsynth.report.tables import gain_cell

MINOR = ("fishing", "tanker", "dredger")
REPLICATES = 2000


def main() -> None:
    """Print the table."""
    known = table3()
    table = Table(title="Gains in F1 in points of a percent, and their 95 % intervals over test images")
    for column in ("split", "method", "over", *MINOR, "minor", "macro", "accuracy"):
        table.add_column(column, justify="right")
    for (method, split), base in product(known, ("resample", "2lora")):
        if method != base and (base, split) in known:
            found = compare(known[method, split], known[base, split], MINOR, replicates=REPLICATES, seed=0)
            gains = [*(found.per_class[name] for name in MINOR), found.minor_f1, found.macro_f1, found.accuracy]
            table.add_row(split, method, base, *(gain_cell(vars(gain)) for gain in gains if gain))
    console.print(table)


if __name__ == "__main__":
    main()
