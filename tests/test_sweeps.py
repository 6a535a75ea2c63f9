"""Sweeps: what they ask for, what their jobs share, and what is left when one of them fails or all are killed."""

import contextlib
import csv
import io
import json
import os
import re
import subprocess
import sys
import time
import types
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image
from processes import run_script, start_script

from sarsynth import cli, console
from sarsynth.config import composition
from sarsynth.config.hydra_internals import parse_arguments
from sarsynth.config.schema import Settings
from sarsynth.errors import ERROR_FILE, UserError
from sarsynth.evidence.results import RESULT, RESULT_VERSION
from sarsynth.report.jobs import read_jobs

ROOT = Path(__file__).parents[1]
TABLE2 = ("2lora", "clora", "plora_uniform", "plora")
ROWS = ("2lora", "plora_uniform", "plora")  # those of them that are made here
TINY = [
    "base.image_size=32",
    *("train.micro_batch=64", "evaluate.replicates=100"),
    *(f"train.{role}.{key}={n}" for role in ("ors", "sar") for key, n in [("max_steps", 4), ("warmup_steps", 1)]),
    *("train.ors.batch_size=4", "train.sar.batch_size=4", "prototypes.k=2", "generate.per_class=2"),
    *("generate.num_inference_steps=1", "generate.guidance_scale=1", "classifier.epochs=1", "seeds=[0]"),
    *("data.train={cargo: 12, other: 6, fishing: 3, tanker: 2, dredger: 2}", "data.test=2", "ors.train=2"),
]


def here(folder: Path, script: str, *overrides: str) -> SimpleNamespace:
    """Run a script inside this process, with `folder` as the working directory."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        patch.object(sys, "argv", [f"{script}.py", *overrides]),
    ):
        try:
            cli.main(script)
        except SystemExit as stop:
            code = stop.code
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())


def start(folder: Path, script: str, *overrides: str) -> subprocess.Popen[str]:
    """Start a script as a person does."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / f"{script}.py"), *overrides],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def made(output: str) -> Counter[str]:
    """How often each artifact was made, by its kind, label and fingerprint."""
    return Counter(re.findall(r"made +(\S+)", output))


def cards(store: Path) -> dict[str, int]:
    """When each complete artifact was made."""
    return {
        str(card.parent.relative_to(store)): card.stat().st_mtime_ns
        for card in store.glob("*/*/card.json")
        if not card.parent.name.startswith(".")
    }


def newest(folder: Path, script: str) -> Path:
    return max((folder / "logs/sweeps" / script).iterdir(), key=lambda path: path.name)


def table(sweep: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((sweep / "results.csv").open()))


def figures(row: dict[str, str]) -> dict[str, float]:
    """The measured columns of a row."""
    return {
        key: float(text)
        for key, text in row.items()
        if text and re.fullmatch("(fid|f1|macro|minor|accuracy)(?!_preprocess).*", key)
    }


# --- What is asked for ------------------------------------------------------------------------------------------------


def jobs(script: str, *overrides: str) -> list[Settings]:
    """The checked settings of each job of a command line, whose folders need not be there."""
    with patch.object(composition, "check_folders"):
        return [settings for settings, _ in composition.check_jobs(script, parse_arguments(overrides))]


OWN = ["data=imagefolder", "data.root=images", "ors=imagefolder", "ors.root=images"]
TABLE3 = ("resample", "finetune", "lora", "2lora", "plora")
PUBLISHED = {  # the script that makes it, and for each job the split, method and number of prototypes
    "table2": ("evaluate", [("train", method, 4) for method in TABLE2]),
    "table3": ("evaluate", [(split, method, 4) for split in ("deci", "train") for method in TABLE3]),
    "figure1": ("generate", [("train", method, 4) for method in ("frozen", "finetune", "lora", "2lora", "plora")]),
    "figure4": ("generate", [("train", method, 4) for method in ("finetune", "lora", "2lora", "clora", "plora")]),
    "figure_a1": ("train", [("train", "plora", k) for k in (4, 16)]),
}
SWEPT = {"rank": 8, "num_prototypes": 5, "scales": 5, "synthetic_ratio": 5, "in_the_loop": 4, "learning_curve": 4}


def test_every_published_row_and_sweep_is_tested():
    for group, known in {"experiment": {*PUBLISHED, "demo", "smoke", "rivals"}, "sweep": SWEPT}.items():
        assert {file.stem for file in (composition.CONF / group).glob("*.yaml")} == set(known)


@pytest.mark.parametrize("given", [[], ["base=sd15", *OWN]], ids=["sd-nano", "sd15"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_rows_compose(name: str, given: list[str]):
    script, expected = PUBLISHED[name]
    found = jobs(script, "-m", f"experiment={name}", *given)
    assert [(one.data.split, one.method.name, one.prototypes.k) for one in found] == expected


@pytest.mark.parametrize("given", [[], ["base=sd15", *OWN]], ids=["sd-nano", "sd15"])
@pytest.mark.parametrize("name", SWEPT)
def test_sweeps_compose(name: str, given: list[str]):
    assert len(jobs("evaluate", "-m", f"sweep={name}", *given)) == SWEPT[name]


def test_ranks_are_of_one_adapter_unless_a_method_is_named():
    for given, name in (([], "lora"), (["method=2lora"], "2lora")):
        assert {one.method.name for one in jobs("train", "-m", "sweep=rank", "stage=sar", *given)} == {name}


def test_prototypes_share_one_total_rank():
    found = jobs("evaluate", "-m", "method=plora", "sweep=num_prototypes")
    assert [one.prototypes.k for one in found] == [1, 2, 4, 8, 16]
    assert {one.method.rank for one in found} == {16}, "of all of them together"


def test_an_experiment_and_a_sweep_multiply_and_the_command_line_wins():
    found = jobs("evaluate", "experiment=table2", "sweep=scales", "method=lora,2lora", "generate.scales=[1,0],[0,1]")
    assert [(one.method.name, one.generate.scales) for one in found] == [
        (method, scales) for method in ("lora", "2lora") for scales in [(1, 0), (0, 1)]
    ]
    assert len(jobs("evaluate", "experiment=table2", "sweep=scales", "method=2lora")) == SWEPT["scales"]


def test_a_launcher_that_is_not_installed_says_where_it_comes_from():
    with pytest.raises(UserError, match=r"hydra/launcher=joblob .* nearest is joblib.*\[sweeps\]"):
        jobs("evaluate", "-m", "hydra/launcher=joblob", "seed=0,1")


# --- What jobs share --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> SimpleNamespace:
    """Rows of Table 2 in one go, in a folder of its own. Tests may add to it."""
    folder = tmp_path_factory.mktemp("table2")
    run = run_script("evaluate", folder, "-m", "experiment=table2", f"method={','.join(ROWS)}", *TINY)
    assert run.returncode == 0, run.stderr
    store = folder / "logs/store"
    return SimpleNamespace(
        folder=folder, sweep=newest(folder, "evaluate"), store=store, made=set(cards(store)), run=run
    )


def test_the_rows_of_table_2_share_the_view_the_classifier_and_the_prototypes(study: SimpleNamespace):
    found = made(study.run.stdout)
    assert set(found.values()) == {1}
    assert set(found) == study.made
    built = Counter(name.split("/")[0] for name in found)
    assert (built["classifier"], built["partition"]) == (1, 1)
    assert sum(name.startswith("adapter/ors-") for name in found) == 1
    assert sum(name.startswith("adapter/prototype_") for name in found) == 2, "for both rows that have prototypes"
    assert [row["method"] for row in table(study.sweep)] == list(ROWS)
    assert {row["overrides"] for row in table(study.sweep)} == {""}


def test_a_sweep_leaves_a_report(study: SimpleNamespace):
    page = (study.sweep / "report.html").read_text()
    assert all(f"python evaluate.py method={method} experiment=table2" in page for method in ROWS)
    assert {"gains.svg", "features.svg", "kid.png"} <= {file.name for file in (study.sweep / "plots").iterdir()}
    tables = (study.sweep / "results.tex").read_text().split(r"\bottomrule")
    for table in tables[:2]:  # F1 with intervals; precision, recall and F1
        assert [table.count("\n" + name.replace("_", r"\_") + " &") for name in ROWS] == [1] * len(ROWS)
    assert len(page) < 15e6


def test_sets_of_a_sweep_are_shown_side_by_side(study: SimpleNamespace):
    names = {file.name for file in study.sweep.glob("*.png")}
    classes = ("cargo", "other", "fishing", "tanker", "dredger")
    assert names == {"side_by_side.png", *(f"side_by_side_{name}.png" for name in classes)}
    with Image.open(study.sweep / "side_by_side_tanker.png") as picture:
        pixels = np.asarray(picture)[..., 0]
    results = [json.loads((study.sweep / str(job) / RESULT).read_text()) for job in range(len(ROWS))]
    for result in results:
        (made_set, *_) = (study.store / "synthetic").glob(f"*-{result['inputs']['synthetic']}")
        with Image.open(made_set / "images/tanker/000001.png") as picture:
            enlarged = np.asarray(picture).repeat(5, axis=0).repeat(5, axis=1)
        windows = np.lib.stride_tricks.sliding_window_view(pixels, (1, enlarged.shape[1]))
        assert (windows[..., 0, :] == enlarged[0]).all(axis=-1).any(), "its pixels are in the picture as they are"


def test_cells_that_share_a_method_are_told_apart(study: SimpleNamespace):
    scales = "generate.scales=[0.9,0],[0.9,0.5]"
    run = here(study.folder, "generate", "-m", *TINY, "method=2lora", "sweep=scales", scales)
    assert run.code == 0, run.err
    assert not [name for name in made(run.out) if name.startswith("adapter/")], "w2 trains nothing"
    found = read_jobs(newest(study.folder, "generate"))
    assert [cell.name for cell in found] == ["2lora generate.scales=[0.9,0]", "2lora generate.scales=[0.9,0.5]"]
    assert [cell.heading for cell in found] == ["2lora scales=[0.9,0]", "2lora scales=[0.9,0.5]"]
    assert "  2lora generate.scales=[0.9,0.5]: logs/sweeps/generate/" in run.out
    assert not (newest(study.folder, "generate") / "results.csv").exists()


def test_a_killed_sweep_run_again_with_two_jobs_at_once_does_only_what_is_missing(study, tmp_path: Path):
    """Killed once its first SAR adapter is there; then no artifact is made twice, whoever needs it, and none anew."""
    store = tmp_path / "logs/store"
    asked = ["-m", "method=2lora,plora", *TINY]
    killed = start_script("evaluate", tmp_path, *asked, out=tmp_path / "out", err=tmp_path / "err")
    while not any(name.startswith("adapter/sar-") for name in cards(store)):
        assert killed.is_alive(), (tmp_path / "err").read_text()
        time.sleep(0.01)
    killed.kill()
    killed.join()
    before = cards(store)
    assert not (newest(tmp_path, "evaluate") / "results.csv").exists()

    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    again = start(tmp_path, "evaluate", *asked, *launcher)
    output, _ = again.communicate()
    assert again.returncode == 0, output
    after = cards(store)
    assert {name: after[name] for name in before} == before
    found = made(output)
    assert set(found) == set(after) - set(before)
    assert set(found.values()) == {1}
    assert set(after) <= study.made, "what an undisturbed sweep makes"
    assert not list(store.glob("*/.*.partial"))
    assert all(re.match(r"p?2?lora +│ ", line) for line in output.splitlines() if "made   " in line), (
        "whose line is it?"
    )
    assert re.search(r"^  \d+ artifacts are there, \d+ to make: .*evaluations", output, re.M)
    assert not list(newest(tmp_path, "evaluate").rglob(".screen*")), "what the screen was read from is gone"
    assert output.splitlines()[-1].endswith("/report.html")
    assert re.search(r"(is ahead|are level): minor-class F1 ", "\n".join(output.splitlines()[-4:]))
    undisturbed = [row for row in table(study.sweep) if row["method"] in ("2lora", "plora")]
    for one, other in zip(table(newest(tmp_path, "evaluate")), undisturbed, strict=True):
        assert one["method"] == other["method"]
        assert figures(one) == pytest.approx(figures(other), rel=1e-4)


def test_a_sweep_of_which_nothing_is_missing_starts_no_process(study: SimpleNamespace):
    before = cards(study.folder / "logs/store")
    asked = ["-m", "method=2lora,plora", *TINY, "hydra/launcher=two_jobs"]
    with patch("joblib.externals.loky.get_reusable_executor", side_effect=AssertionError("a process is started")):
        run = here(study.folder, "evaluate", *asked)
    assert run.code in (0, None), run.err
    assert "2 at a time" not in run.out and "plora #1" not in run.out, "lines of one job at a time need no name"
    assert re.search(r"all \d+ artifacts are there already", run.out)
    assert run.out.splitlines()[-1].endswith("/report.html")
    assert cards(study.folder / "logs/store") == before


# --- What fails -------------------------------------------------------------------------------------------------------


@pytest.fixture
def scripted(monkeypatch) -> None:
    """An evaluation that does what its seed says, without torch."""

    def run(settings: Settings, folder: Path, overrides: list[str]) -> None:
        match settings.seed:
            case 1:
                raise UserError("images/ has no tankers; add some")
            case 2:
                raise ZeroDivisionError("by nothing")
            case 3:
                raise KeyboardInterrupt
        print("seed", settings.seed)
        figure = {"mean": 0.5, "std": 0.0, "values": [0.5]}
        content = {
            **dict.fromkeys(("base", "data", "split"), "some"),
            "version": RESULT_VERSION,
            "protocol": {"leaks": None, "baseline": "none", "replicates": 200},
            "method": "none",
            "minor": [],
            "classes": ["cargo"],
            "seeds": [0],
            "classifier": {
                "per_class": {"cargo": {"f1": figure}},
                **dict.fromkeys(("macro_f1", "minor_f1", "accuracy"), figure),
                "confusion": {"mean": [[1]], "values": [[[1]]]},
            },
            **dict.fromkeys(("realism", "memorisation", "filter")),
            "fidelity": {"preprocess": "normalised", "width": None, "pooled": None, "per_class": {}},
            "inputs": {"seed_0": "gone"},
        }
        (folder / RESULT).write_text(json.dumps(content))

    monkeypatch.setitem(sys.modules, "sarsynth.commands.evaluate", types.SimpleNamespace(run=run))


def test_a_failed_job_takes_no_other_with_it(scripted, tmp_path: Path):
    run = here(tmp_path, "evaluate", "-m", "method=none", "prototypes.k=3", "seed=0,1,2,4")
    assert run.code == 1
    assert run.err.splitlines() == [
        "error: #1: images/ has no tankers; add some",
        "error: #2: ZeroDivisionError: by nothing; traceback in evaluate.log",
    ]
    assert re.findall(r"^seed \d$", run.out, re.M) == ["seed 0", "seed 4"]
    sweep = newest(tmp_path, "evaluate")
    assert [(row["method"], row["overrides"]) for row in table(sweep)] == [("none", "seed=0"), ("none", "seed=4")]
    summary = run.out[run.out.index("2 of 4 jobs failed") :].splitlines()[1:3]
    folder = sweep.relative_to(tmp_path)
    assert summary == [
        f"  none seed=1: {folder}/1/ images/ has no tankers; add some",
        f"  none seed=2: {folder}/2/ ZeroDivisionError: by nothing; traceback in evaluate.log",
    ]
    assert [job.overrides for job in read_jobs(sweep) if job.error] == ["seed=1", "seed=2"]
    assert (sweep / "1" / ERROR_FILE).read_text() == "images/ has no tankers; add some\n"
    log = (sweep / "2/evaluate.log").read_text()
    assert "Traceback" in log and "ZeroDivisionError: by nothing" in log
    assert "Traceback" not in run.out + run.err


def test_a_report_that_cannot_be_made_hides_nothing(scripted, monkeypatch, tmp_path: Path):
    monkeypatch.setattr("sarsynth.report.writing.write", lambda *_: 1 / 0)
    run = here(tmp_path, "evaluate", "-m", "method=none", "prototypes.k=3", "seed=0,1")
    assert run.code == 1
    assert "none seed=1" in run.out and "images/ has no tankers" in run.out
    assert "ZeroDivisionError" in run.out + run.err
    fine = here(tmp_path, "evaluate", "-m", "method=none", "prototypes.k=3", "seed=0,4")
    assert fine.code == 1, "no report is an error too"


def test_all_jobs_failing_is_a_summary_too(scripted, tmp_path: Path):
    run = here(tmp_path, "evaluate", "-m", "seed=1,2")
    assert run.code == 1
    assert "2 of 2 jobs failed" in run.out
    assert not (newest(tmp_path, "evaluate") / "results.csv").exists()


def test_ctrl_c_stops_the_sweep(scripted, tmp_path: Path):
    run = here(tmp_path, "evaluate", "-m", "seed=0,3,4")
    assert run.code == 130
    assert re.findall(r"^seed \d$", run.out, re.M) == ["seed 0"]


# --- Lines of jobs beside each other ----------------------------------------------------------------------------------


def test_lines_carry_the_job_that_they_are_of(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(console, "console", console.Console(file=stream, width=40, force_terminal=False))
    console.tag_lines("#1 ")
    console.console.print("one\ntwo")
    console.tag_lines("#12 ")
    with console.progress("steps", 2) as advance:
        advance(2)
    console.console.rule("three")
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["#1 one", "#1 two"]
    assert re.fullmatch(r"#12 ─+ three ─+", lines[-1])
    assert len(lines[-1]) <= 41, "no wider than the screen by more than the longer tag"
