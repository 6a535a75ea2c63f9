"""The results as LaTeX tables."""

from collections.abc import Mapping, Sequence

from sarsynth.evidence.results import leaks
from sarsynth.report.pages import Cell
from sarsynth.report.sweep import FIGURES, MEANS, RELEASE, Sweep, distance_cells, f1, gain_of, is_release, mark, scored
from sarsynth.report.tables import percent

_ESCAPED = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    sign: f"\\{sign}" for sign in "&%$#_{}"
}


def tables(sweep: Sweep) -> str:
    """Lay the results out as two LaTeX tables (package booktabs): F1 with intervals, and the paper's form."""
    notes: dict[str, str] = {}
    names = []
    for name, result in zip(sweep.rows, sweep.results, strict=True):
        notes |= {r"\dagger": "; ".join(leaks(result))} if leaks(result) else {}
        notes |= {r"\ddagger": RELEASE} if is_release(result) else {}
        names.append(_plain(name) + (r"$^{\dagger}$" if leaks(result) else ""))
    return "\n".join(
        [
            "% Needs package booktabs.",
            *_with_intervals(sweep, names, notes),
            "",
            *_papers_form(sweep, names, notes),
            "",
        ]
    )


def _with_intervals(sweep: Sweep, names: Sequence[str], notes: Mapping[str, str]) -> list[str]:
    columns = [*sweep.classes, "minor_f1", "macro_f1", "accuracy"]
    arrows = {"▲": r"^{\uparrow}", "▼": r"^{\downarrow}", "": ""}
    lines = []
    for name, result, compared in zip(names, sweep.results, sweep.compared, strict=True):
        cells, intervals = [], []
        for column in columns:
            text, interval = percent(f1(result, column)), (compared["scores"] or {}).get(column)
            arrow = arrows[mark(gain_of(compared, column))]
            cells.append(text and "$" + text.replace("±", r" \pm ") + arrow + "$")
            span = f"[{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]" if interval and text else ""
            intervals.append(rf"{{\scriptsize ${span}$}}" if span else "")
        sign = r"^{\ddagger}" if is_release(result) else ""
        distances = [cell.text if isinstance(cell, Cell) else cell for cell in distance_cells(result)]
        cells += [f"${text}{sign}$" if text else "" for text in distances]
        lines += [" & ".join([name, *cells]) + r" \\", " & ".join(["", *intervals, "", ""]) + r" \\"]
    heads = [_plain(sweep.titles[column]) for column in columns]
    about = (
        "% F1 (and accuracy) in %, mean and standard deviation over classifier seeds, below it the 95 % interval over "
        "test images and seeds; * minor classes; arrows: significant, for classes after Holm's correction."
    )
    return [about, *_tabular(["method", *heads, "FID", "KID"], lines, notes)]


def _papers_form(sweep: Sweep, names: Sequence[str], notes: Mapping[str, str]) -> list[str]:
    shares = [figure for figure in FIGURES if figure != "support"]
    lines = []
    for name, result in zip(names, sweep.results, strict=True):
        found = [scored(result, of).get(figure) for of in sweep.classes for figure in shares]
        cells = [percent(figure).partition("±")[0] for figure in [*found, *(f1(result, mean) for mean in MEANS)]]
        lines.append(" & ".join([name, *cells]) + r" \\")
    support = [
        next((one["support"]["mean"] for result in sweep.results if "support" in (one := scored(result, name))), None)
        for name in sweep.classes
    ]
    span = len(shares)
    totals = [rf"\multicolumn{{{span}}}{{c}}{{{'' if size is None else f'{size:.0f}'}}}" for size in support]
    lines.append(" & ".join(["test images", *totals, *[""] * len(MEANS)]) + r" \\")
    classes = [rf"\multicolumn{{{span}}}{{c}}{{{_plain(sweep.title(name))}}}" for name in sweep.classes]
    above = " & ".join(["", *classes, *[""] * len(MEANS)]) + r" \\"
    heads = ["method", *[figure[0].upper() for figure in shares] * len(classes), *map(_plain, MEANS.values())]
    about = "% Precision, recall and F1 of each class in %, means over classifier seeds, as in the paper's Table 3."
    return [about, *_tabular(heads, lines, notes, above=[above])]


def _tabular(
    heads: Sequence[str], lines: Sequence[str], notes: Mapping[str, str], above: Sequence[str] = ()
) -> list[str]:
    """A table with footnotes, by their signs; the first column stands to the left."""
    feet = [
        rf"\multicolumn{{{len(heads)}}}{{l}}{{\footnotesize $^{{{sign}}}$ {_plain(text)}}} \\"
        for sign, text in notes.items()
    ]
    return [
        rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
        r"\toprule",
        *above,
        " & ".join(heads) + r" \\",
        r"\midrule",
        *lines,
        r"\bottomrule",
        *feet,
        r"\end{tabular}",
    ]


def _plain(text: str) -> str:
    return "".join(_ESCAPED.get(sign, sign) for sign in text)
