"""A sweep of which nothing is missing runs where it was started; any other one as its launcher would have it."""

from pathlib import Path

import hydra
import pytest
from omegaconf import DictConfig

from sarsynth.commands import planning
from sarsynth.commands.reusing import stay_if_whole
from sarsynth.config.composition import CONF, compose, settings_of


def jobs_at_once(store: Path, *overrides: str) -> int | None:
    """What the launcher of a sweep is left with; None for Hydra's own, which knows no such number."""
    said = [f"paths.store={store}", "seeds=[0,1]", *overrides]
    of_jobs = [[*said, f"method={method}"] for method in ("none", "resample")]
    jobs = [(settings_of("evaluate", job), job) for job in of_jobs]
    with hydra.initialize_config_dir(str(CONF), job_name="evaluate", version_base="1.3"):
        config: DictConfig = compose("evaluate", said, hydra_record=True)
        config.hydra.job.config_name = "evaluate"
        config.hydra.sweep.dir = str(store / "sweep")
        stay_if_whole(config, jobs)
    return config.hydra.launcher.get("n_jobs")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """One that has a namesake of every classifier."""
    for label in [f"{method}-seed-{seed}" for method in ("none", "resample") for seed in (0, 1)]:
        (tmp_path / "evaluation" / f"{label}-0123456789abcdef").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(("whole", "left"), [(True, 1), (False, 2)])
def test_jobs_run_here_only_if_nothing_is_missing(store: Path, monkeypatch, whole: bool, left: int):
    asked = []
    monkeypatch.setattr(planning, "foresee", lambda script, jobs, folder: asked.append(jobs) or whole)
    assert jobs_at_once(store, "hydra/launcher=two_jobs") == left
    assert [[settings.method.name for settings, _ in jobs] for jobs in asked] == [["none", "resample"]]


@pytest.mark.parametrize("overrides", [["hydra/launcher=two_jobs", "build=require"], []])
def test_nobody_looks_where_nothing_could_change(store: Path, monkeypatch, overrides: list[str]):
    monkeypatch.setattr(planning, "foresee", lambda *_: pytest.fail("looked"))
    assert jobs_at_once(store, *overrides) == (2 if overrides else None)


def test_a_store_without_such_classifiers_is_not_planned_for(tmp_path: Path, store: Path, monkeypatch):
    """To plan takes seconds of imports, which a sweep that has work to do need not wait for."""
    monkeypatch.setattr(planning, "foresee", lambda *_: pytest.fail("looked"))
    next((store / "evaluation").glob("resample-seed-1-*")).rmdir()
    assert jobs_at_once(store, "hydra/launcher=two_jobs") == 2
