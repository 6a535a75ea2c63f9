"""Tables in LaTeX (package booktabs)."""

from collections.abc import Sequence

from sarsynth.report.pieces import WARNING, Cell, Table

_ESCAPED = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    sign: f"\\{sign}" for sign in "&%$#_{}"
}
_ARROWS = {"▲": r"^{\uparrow}", "▼": r"^{\downarrow}"}
_FOOTNOTES = (r"\dagger", r"\ddagger", r"\S", r"\P", r"\|")


def tabular(table: Table, above: Sequence[Cell] = ()) -> str:
    """Lay out a table: intervals in a line of their own below the values, meanings of warnings as footnotes.

    The caption becomes a comment; `above` are headings over several columns each.
    """
    cells = table.cells
    meanings = dict.fromkeys(cell.meaning for row in cells for cell in row if cell.mark == WARNING)
    signs = dict(zip(meanings, [*_FOOTNOTES, *map(str, range(len(_FOOTNOTES) + 1, len(meanings) + 1))], strict=False))
    with_intervals = any(cell.interval for row in cells for cell in row)
    lines = []
    for row in cells:
        lines.append(_line([_value(cell, signs) for cell in row]))
        lines += [_line([_interval(cell) for cell in row])] * with_intervals
    width = len(table.columns)
    feet = [
        rf"\multicolumn{{{width}}}{{l}}{{\footnotesize $^{{{sign}}}$ {_plain(meaning)}}} \\"
        for meaning, sign in signs.items()
    ]
    begin = [f"% {table.caption}", rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}", r"\toprule"]
    headings = [_line([_value(cell, signs) for cell in above])] if above else []
    headings.append(_line([_plain(column) for column in table.columns]))
    return "\n".join([*begin, *headings, r"\midrule", *lines, r"\bottomrule", *feet, r"\end{tabular}", ""])


def _line(texts: Sequence[str]) -> str:
    return " & ".join(texts) + r" \\"


def _value(cell: Cell, signs: dict[str, str]) -> str:
    mark = f"^{{{signs[cell.meaning]}}}" if cell.mark == WARNING else _ARROWS.get(cell.mark, "")
    if isinstance(cell.value, str):
        text = _plain(cell.text) + (f"${mark}$" if mark else "")
    else:
        number = rf"{cell.text} \pm {cell.spread}" if cell.spread else cell.text
        text = f"${number}{mark}$" if number else ""
    return text if cell.span == 1 else rf"\multicolumn{{{cell.span}}}{{c}}{{{text}}}"


def _interval(cell: Cell) -> str:
    return rf"{{\scriptsize $[{', '.join(cell.ends)}]$}}" if cell.interval else ""


def _plain(text: str) -> str:
    return "".join(_ESCAPED.get(sign, sign) for sign in text)
