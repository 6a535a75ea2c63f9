"""The paper's Tables 2 and 3 with intervals that know of the test images alone, as docs/evaluation.md has them.

python benchmarks/published.py
"""

from collections.abc import Mapping, Sequence

from sarsynth.evidence.published import MINOR, published, published_gains, table2, table3
from sarsynth.evidence.results import MEANS
from sarsynth.evidence.significance import Estimate, Gain

CLASSES = ("cargo", "other", *MINOR)


def main() -> None:
    """Print both tables, and the gains over what each is compared with, in Markdown."""
    keys = {2: list(table2()), 3: list(table3())}
    for number, columns in ((2, (*MINOR, "minor_f1")), (3, (*CLASSES, *MEANS))):
        fid = ("cargo", *MINOR) if number == 2 else ()
        _head("method", "split", *map(_title, columns), *(f"FID {name}" for name in fid))
        for method, split in keys[number]:
            if row := published(method, split):
                cells = [_score(row.scores[name]) for name in columns]
                _line(f"`{method}`", split, *cells, *(f"{row.fid[name]:.3f}" for name in fid))
        _gains(keys[number], {2: "2lora", 3: "resample"}[number], columns)


def _gains(keys: Sequence[tuple[str, str]], base: str, columns: Sequence[str]) -> None:
    print(f"\nGains over `{base}`:\n")
    _head("method", "split", *map(_title, columns))
    for method, split in keys:
        if gains := published_gains(method, base, split):
            _line(f"`{method}`", split, *(_gain(gains, name) for name in columns))
    print()


def _head(*titles: str) -> None:
    _line(*titles)
    print("|---" * len(titles) + "|")


def _title(name: str) -> str:
    return name.removesuffix("_f1")


def _line(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |")


def _score(found: Estimate) -> str:
    return f"{100 * found.value:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def _gain(gains: Mapping[str, Gain], name: str) -> str:
    gain = gains[name]
    text = f"{100 * gain.delta:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
    return text.replace("-", "\N{MINUS SIGN}")


if __name__ == "__main__":
    main()
