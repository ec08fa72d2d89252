"""The compilation of an engine's velocity, in a process of its own, while the engine computes eagerly."""

import os
import subprocess
import sys
import tempfile

import torch

from enflow.model.card import read_card
from enflow.model.checkpoint import use_compiled
from enflow.model.flow.compiled_velocity import find_compiler
from enflow.model.flow.components import FlowComponents

LOWEST_PRIORITY = 19
"""The niceness of the process: it gets the time that the engine leaves."""


class BackgroundCompilation:
    """`enflow compile` for the weights of a flow. The process goes on if the engine ends.

    Args:
        flow: the flow, which switches to the compiled velocity once it is there.
        weights: the folder of its weights.
    """

    def __init__(self, flow: FlowComponents, weights: str) -> None:
        self._flow, self._weights = flow, weights
        self._process: subprocess.Popen[bytes] | None = None
        self._notice = ""
        if flow.compiled is not None or flow.device.type != "cpu" or flow.dtype != torch.float32:
            return
        if not find_compiler():
            self._notice = "the velocity is not compiled: no C++ compiler, see `enflow compile`"
            return
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        command = [sys.executable, "-m", "enflow.service", "compile", weights]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self._errors)  # noqa: S603
        os.setpriority(os.PRIO_PROCESS, self._process.pid, LOWEST_PRIORITY)

    def poll(self) -> str:
        """Let the flow use the compiled velocity if it is there now; return what there is to report, each fact once."""
        if self._process is not None and self._process.poll() is not None:
            self._notice = self._finish(self._process.returncode)
            self._process = None
        notice, self._notice = self._notice, ""
        return notice

    def _finish(self, code: int) -> str:
        with self._errors:
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").splitlines()
        if code == 0 and use_compiled(self._flow, read_card(self._weights)):
            return "the velocity is compiled"
        return f"the velocity is not compiled: {lines[-1] if lines else f'exit code {code}'}"
