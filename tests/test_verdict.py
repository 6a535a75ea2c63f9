"""What the last lines of a sweep say, and that they say no more than the intervals do."""

from dataclasses import replace
from typing import Any

from test_tables import row

from sarsynth.report.rows import Row
from sarsynth.report.verdict import verdict


def against(of: Row, baseline: str, delta: float, *, significant: bool) -> Row:
    """A row with its gain in minor-class F1 over another one."""
    keys = {"p": 0.01, "p_holm": 0.01, "detectable": None, "seeds": None, "images": None}
    gain = keys | {"delta": delta, "low": delta - 0.03, "high": delta + 0.03, "significant": significant}
    gains: dict[str, Any] = {"per_class": {}, "minor_f1": gain, "macro_f1": gain, "accuracy": gain, "mcnemar": None}
    return replace(of, entry={"gains": gains}, baseline=baseline)


NONE, RESAMPLE = row("none", 0.39, 0.60, synthetic=False), row("resample", 0.52, 0.57, synthetic=False)


def test_a_winner_is_named_with_its_lead_and_its_interval():
    plora = against(row("plora", 0.618, 0.6, synthetic=True), "resample", 0.098, significant=True)
    (line,) = verdict([against(NONE, "resample", -0.13, significant=True), RESAMPLE, plora])
    assert line == (
        "plora is ahead: minor-class F1 61.8 %, 9.8 points above resample (95 % interval +6.8 to +12.8): significant"
    )


def test_the_classes_that_pay_for_a_lead_are_named():
    plora = against(row("plora", 0.618, 0.6, synthetic=True), "resample", 0.098, significant=True)
    deltas = {"cargo": (-0.02, False), "other": (-0.114, True), "tanker": (0.3, True)}
    of_minor = plora.entry["gains"]["minor_f1"]
    per_class = {name: of_minor | {"delta": delta, "significant": found} for name, (delta, found) in deltas.items()}
    plora = replace(plora, entry={"gains": plora.entry["gains"] | {"per_class": per_class}})
    assert verdict([RESAMPLE, plora])[1:] == ["it costs 11.4 points of F1 of other: significant too"]


def test_a_lead_that_may_be_chance_is_called_so():
    plora = against(row("plora", 0.53, 0.6, synthetic=True), "resample", 0.01, significant=False)
    (line,) = verdict([RESAMPLE, plora])
    assert line.endswith("1.0 points above resample (95 % interval -2.0 to +4.0): not significant, so it may be chance")


def test_nothing_wins_over_the_baseline():
    plora = against(row("plora", 0.50, 0.6, synthetic=True), "resample", -0.02, significant=False)
    first, second = verdict([RESAMPLE, plora])
    assert first.startswith("resample is ahead: minor-class F1 52.0 %, the row that the others are compared with: none")
    assert second.startswith("no generator is needed here")


def test_what_was_not_tested_is_said_to_be_open():
    plora = against(row("plora", 0.55, 0.6, synthetic=True), "none", 0.16, significant=True)
    first, second = verdict([NONE, against(RESAMPLE, "none", 0.13, significant=True), plora])
    assert first.endswith("16.0 points above none (95 % interval +13.0 to +19.0): significant")
    assert second == (
        "the best row without a generator, resample, lies 3.0 points of minor F1 below; evaluate.baseline=resample "
        "tells whether that is more than chance"
    )
    (alone, _) = verdict([NONE, RESAMPLE, row("lora", 0.4, 0.5, synthetic=True)])
    assert alone.endswith("nothing says whether that is more than chance, for it is compared with no other row")


def test_one_row_wins_nothing_and_macro_stands_in_for_minor_classes():
    assert verdict([NONE]) == []
    rows = [row("none", None, 0.5, synthetic=False), row("lora", None, 0.6, synthetic=True)]
    assert verdict(rows)[0].startswith("lora is ahead: macro F1 60.0 %")


def test_scores_that_leak_are_not_to_be_believed():
    leaking = row("plora", 0.9, 0.9, synthetic=True)
    leaking = replace(leaking, result={**leaking.result, "protocol": {"leaks": "chosen on the test set"}})
    assert "not to be taken at its word: chosen on the test set" in verdict([NONE, leaking])


def test_equal_rows_are_level():
    assert verdict([NONE, replace(NONE, name="other")]) == ["none and other are level: minor-class F1 39.0 %"]
