"""Tables as comma-separated values."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any


def text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay out rows of values by column; a row may lack columns of others (jobs on different data)."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = io.StringIO()
    writer = csv.DictWriter(lines, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return lines.getvalue()
