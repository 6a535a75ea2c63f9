"""What `--help` prints, and what a look at the machine finds (`doctor=true`)."""

import sys
from pathlib import Path
from typing import get_args
from urllib.error import URLError

import pytest
import torch
from filelock import FileLock
from test_sweeps import TINY

from sarsynth import cli
from sarsynth.commands import doctor, usage
from sarsynth.config.checks import check
from sarsynth.config.composition import CONF, compose
from sarsynth.config.schema import Settings


@pytest.fixture
def typed(tmp_path: Path, monkeypatch, capsys):
    """Run a script from an empty folder; returns its exit code and what it printed, in one line of single spaces."""

    def run(script: str, *words: str) -> tuple[object, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [f"sarsynth-{script}", *words])
        code: object = 0
        try:
            cli.main(script)
        except SystemExit as stop:
            code = stop.code
        written = capsys.readouterr()
        return code, " ".join((written.out + written.err).split())

    return run


# --- Help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", usage.SCRIPTS)
def test_help_names_stages_methods_groups_keys_and_examples(typed, tmp_path: Path, script: str):
    code, page = typed(script, "--help")
    assert code == 0
    assert not list(tmp_path.iterdir())  # nothing is begun
    for method in (CONF / "method").glob("*.yaml"):
        assert method.stem in page
    assert "plora* A SAR adapter for each prototype, mixed for a class by its bias scores (paper Eq. 4)." in page
    assert "sd-nano* sd15" in page
    assert f"sarsynth-{script} " in page
    assert ("nothing is made: report.html" in page) == (script == "train")
    assert "[w1,w2]" in page  # no markup


def test_help_knows_every_group_stage_and_key():
    chosen_with_others = {"adapter", "train", "generate", "contours/edges", "paths", "hydra"}
    folders = {str(file.parent.relative_to(CONF)) for file in CONF.rglob("*.yaml")} - {"."}
    folders = {folder for folder in folders if folder == "hydra/launcher" or not folder.startswith("hydra/")}
    assert folders - chosen_with_others == set(usage.GROUPS)
    (stages,) = [part for part in get_args(Settings.model_fields["stage"].annotation) if part is not type(None)]
    assert set(get_args(stages)) == set(usage.STAGES)
    assert all(about for group in usage.GROUPS for about in usage._options(group, [CONF]).values())


@pytest.mark.parametrize("script", usage.SCRIPTS)
def test_what_help_shows_to_be_typed_is_true(composed, script: str):
    for words in usage.SCRIPTS[script].examples:
        composed(script, [word for word in words if word != "-m" and "," not in word])
    plain = composed(script, ["stage=data"] if script == "train" else []).model_dump(by_alias=True)
    for key in [*usage.KEYS, *usage.SCRIPTS[script].own, *(key.partition("=")[0] for key in usage.ALIKE)]:
        value = plain
        for part in key.split("."):
            assert part in value or key.endswith(".root"), key  # which simulated images have not
            value = value.get(part)


@pytest.fixture
def composed():
    import hydra

    def settings(script: str, overrides: list[str]) -> Settings:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return check(compose(script, overrides))

    return settings


def test_help_of_a_group_says_what_each_option_is(typed, tmp_path: Path):
    (tmp_path / "mine/method").mkdir(parents=True)
    (tmp_path / "mine/method/ours.yaml").write_text("# Ours, which does otherwise.\ndefaults: [lora, _self_]\n")
    _, page = typed("evaluate", "--config-dir", "mine", "--help", "method", "trainer=gpu", "seed=3")
    assert "ours Ours, which does otherwise." in page
    assert "gpu One GPU;" in page
    assert "sd15" not in page


def test_what_a_script_proposes_names_it_as_it_was_called(typed, tmp_path: Path):
    (tmp_path / "mine/method").mkdir(parents=True)
    (tmp_path / "mine/method/ours.yaml").write_text("# Ours.\ndefaults: [none, _self_]\nname: ours\n")
    code, said = typed("evaluate", "--config-dir", "mine", "method=ours", *TINY, "build=require")
    assert code == 1
    assert "make it with: sarsynth-train --config-dir mine stage=" in said


# --- The machine ------------------------------------------------------------------------------------------------------


@pytest.fixture
def online(monkeypatch):
    monkeypatch.setattr(doctor.constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(doctor, "_reached", lambda url: None)


def found(composed, script: str, *overrides: str) -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.examined(script, composed(script, list(overrides)))}


def test_a_machine_that_has_all_is_ready(typed, online, tmp_path: Path):
    code, said = typed("train", "doctor=true")  # without a stage
    assert code == 0
    assert "ready" in said
    assert "next: sarsynth-train build=plan" in said
    assert not list(tmp_path.iterdir())


def test_what_stops_a_run_is_named_with_its_remedy(typed, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(doctor, "_reached", lambda url: "no route")
    code, said = typed("evaluate", "doctor=true", "trainer=gpu", "base.path=nobody/has-this", "contours=real")
    assert code == 1
    assert "stops device" in said
    assert "trainer=cpu" in said
    assert "stops weights base=sd-nano: nobody/has-this is not here yet" in said
    assert "hf download nobody/has-this" in said
    assert "not ready" in said
    assert "weights ControlNet" in said


def test_weights_that_the_hub_has_are_a_note(composed, online):
    finding = found(composed, "evaluate", "base.path=nobody/has-this")["weights"]
    assert (finding.state, finding.step) == ("note", "the first run fetches it, once")


def test_a_hub_that_does_not_answer_is_no_obstacle(monkeypatch):
    def refuse(*_, **__):
        raise URLError("Name or service not known")

    monkeypatch.setattr(doctor.constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(doctor, "urlopen", refuse)
    finding = doctor._hub()
    assert finding.state == "note"
    assert "(Name or service not known)" in finding.said


def test_disks_and_locks(tmp_path: Path, monkeypatch):
    assert doctor._disk("paths.store", tmp_path / "a/b").state == "ok"
    assert doctor._lock(tmp_path / "a/b").state == "ok"
    monkeypatch.setattr(doctor, "LITTLE_DISK", 2**70)
    assert doctor._disk("paths.store", tmp_path).state == "note"
    monkeypatch.setattr(FileLock, "_acquire", lambda lock: setattr(lock._context, "lock_file_fd", 0))
    monkeypatch.setattr(FileLock, "_release", lambda lock: setattr(lock._context, "lock_file_fd", None))
    assert doctor._lock(tmp_path).state == "stops"  # a file system that lets everybody in
    assert not list(tmp_path.iterdir())


def test_packages_that_are_too_old_or_absent(monkeypatch):
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda _: ["torch>=99", "nowhere>=1; extra == 'x'"])
    assert [finding.state for finding in doctor._versions()] == ["stops"]
    assert "torch>=99" in next(doctor._versions()).step
    assert doctor._unmet(doctor._required("x")[0]) == ("nowhere is not installed", "nowhere>=1")
