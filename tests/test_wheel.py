"""The wheel, in an environment of its own outside of the checkout: it has all it needs, and behaves as the scripts."""

import importlib.util
import os
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from test_sweeps import TINY

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(importlib.util.find_spec("build") is None, reason="needs the package build")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def bin_folder(built: Path, tmp_path_factory) -> Path:
    """Where the commands lie in a fresh environment that finds the libraries of this one, and not the checkout."""
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text("\n".join(site.getsitepackages()))
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:  # what an installer does, which then writes the commands
        archive.extractall(packages)
        scripts = archive.read(f"{'-'.join(wheel.name.split('-')[:2])}.dist-info/entry_points.txt").decode()
    for line in scripts.splitlines():
        if ":" in line:
            name, _, target = line.partition(" = ")
            module, _, function = target.partition(":")
            command = folder / "bin" / name
            command.write_text(f"#!{folder}/bin/python\nfrom {module} import {function}\n{function}()\n")
            command.chmod(0o755)
    return folder / "bin"


def run(bin_folder: Path, where: Path, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([bin_folder / name, *words], cwd=where, env=env, capture_output=True, text=True, timeout=300)


def test_both_archives_are_fit_for_a_registry(built: Path):
    pytest.importorskip("twine")
    from twine.commands.check import check

    assert not check([str(file) for file in built.iterdir()], strict=True)


def test_the_wheel_has_every_file_of_the_package(built: Path):
    (wheel,) = built.glob("*.whl")
    kept = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("sarsynth/")}
    files = {str(file.relative_to(ROOT)) for file in (ROOT / "sarsynth").rglob("*") if file.is_file()}
    assert {name for name in files if "__pycache__" not in name} == kept


def test_commands_run_from_any_folder(bin_folder: Path, tmp_path: Path):
    assert "sarsynth-generate method=2lora" in run(bin_folder, tmp_path, "sarsynth-generate", "--help").stdout
    (tmp_path / "mine/method").mkdir(parents=True)
    (tmp_path / "mine/method/ours.yaml").write_text("# Ours.\ndefaults: [none, _self_]\nname: ours\n")
    done = run(bin_folder, tmp_path, "sarsynth-evaluate", "--config-dir", "mine", "method=ours", *TINY)
    assert done.returncode == 0, done.stderr
    assert len([*tmp_path.glob("logs/runs/evaluate/*/result.json")]) == 1
