"""Processes of their own, forked from one that has imported everything: no test waits ten seconds for each."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory
from typing import Any

import torch
from composing import compose_once
from lightning.fabric.plugins.environments.lightning import find_free_network_port

from sarsynth import cli

CONTEXT = multiprocessing.get_context("forkserver")  # this process has threads, and must not be forked itself
CONTEXT.set_forkserver_preload(["sarsynth.cli", "sarsynth.commands.train", "sarsynth.commands.evaluate"])


def run(target: Callable[..., None], *args: Any, timeout: float = 500) -> int:
    """Call a function in a process and return its exit code: 0, 1 after an exception, -9 after SIGKILL."""
    return _finish([_start({}, target, *args)], timeout)[0]


def run_on_two(target: Callable[..., None], *args: Any, timeout: float = 500) -> list[int]:
    """Call a function in two processes of one group, as torchrun starts them, and return their exit codes."""
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": find_free_network_port(), "TORCHELASTIC_RUN_ID": "test"}
    group |= {"GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    return _finish([_start(group | {"RANK": rank, "LOCAL_RANK": rank}, target, *args) for rank in (0, 1)], timeout)


def run_script(script: str, folder: Path, *overrides: str, timeout: float = 900) -> CompletedProcess[str]:
    """Run one of the scripts with `folder` as the working directory, and return its exit code and what it wrote."""
    with TemporaryDirectory() as streams:
        out, err = Path(streams, "out"), Path(streams, "err")
        (code,) = _finish([start_script(script, folder, *overrides, out=out, err=err)], timeout)
        return CompletedProcess([script, *overrides], code, out.read_text(), err.read_text())


def start_script(script: str, folder: Path, *overrides: str, out: Path, err: Path) -> Any:
    """Begin to run a script, and return its process; what it writes goes to two files."""
    return _start({}, _script, script, folder, overrides, out, err)


def _script(script: str, folder: Path, overrides: tuple[str, ...], out: Path, err: Path) -> None:
    for stream, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), stream)
    os.chdir(folder)
    sys.argv = [f"{script}.py", *overrides]
    cli.main(script)


def _start(variables: dict[str, Any], target: Callable[..., None], *args: Any) -> Any:
    process = CONTEXT.Process(target=_call, args=({key: str(value) for key, value in variables.items()}, target, args))
    process.start()
    return process


def _call(variables: dict[str, str], target: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ.update(variables)
    torch.set_num_threads(1)
    compose_once()
    target(*args)


def _finish(processes: list[Any], timeout: float) -> list[int]:
    for process in processes:
        process.join(timeout)
        process.kill()  # what hangs; nothing to one that has ended
        process.join()
    return [process.exitcode for process in processes]
