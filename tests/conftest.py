"""What tests share: the embedded base, and one much smaller that stands in where its weights do not matter."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before the hub's client is imported: no test may depend on a network
os.environ["WANDB_SILENT"] = "true"
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # to ask for a card must not spoil it for processes that are forked

import pytest
import torch
from composing import compose_once
from tiny import tiny_base

from sarsynth.diffusion.base import NANO, Base
from sarsynth.report.plots import Plot
from sarsynth.training import microbatches
from sarsynth.training.memory import Demand

# Files that take longest, so that they begin first and no process works alone at the end.
LONG = ["test_pipeline", "test_sweeps", "test_resuming", "test_routing", "test_pipeline_contours", "test_denoising"]

ESTIMATED = ["test_microbatches", "test_gpu", "test_benchmark"]  # files whose trainings estimate what memory they take

LOOKED_AT = [
    "test_report",
    "test_html",
    "test_faults",
    "test_worth",
    "test_second_set",
    "test_published",
]  # files that look at the plots of reports
BLANK = '<svg viewBox="0 0 10 10"></svg>'


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA card"))


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Hashes of files that tests make are not remembered in the user's home."""
    os.environ["SARSYNTH_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True, scope="session")
def _few_threads():
    """More threads than cores, or two for tensors this small, only cost time."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def _memory_enough(request: pytest.FixtureRequest):
    """Elsewhere a training in this process takes it that its step fits: to estimate that is dearer than a few steps."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.stem not in ESTIMATED:
            patch.setattr(microbatches, "needs", lambda *_, **__: Demand(fixed=0, per_sample=1))
        yield


@pytest.fixture(autouse=True, scope="session")
def _composed_once():
    compose_once()


@pytest.fixture(autouse=True, scope="module")
def _drawn_where_looked_at(request: pytest.FixtureRequest):
    """Elsewhere a sweep in this process has empty plots in its report: they take longer than a study of seconds."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.stem not in LOOKED_AT:
            patch.setattr("sarsynth.report.style._lay_out", lambda figure: None)
            patch.setattr(Plot, "svg", property(lambda plot: BLANK))
            patch.setattr("sarsynth.report.plots._svg", lambda figure: BLANK)
            patch.setattr(Plot, "save", lambda plot, folder: None)
        yield


@pytest.fixture(scope="module")
def nano() -> Base:
    """The base inside the package, for tests that leave it as they found it."""
    return Base.load(NANO)


@pytest.fixture
def tiny() -> Base:
    """A fresh base of random weights."""
    return tiny_base()
