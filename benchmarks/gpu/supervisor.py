"""The command: a process works through the stages, and this one replaces it if it hangs or its device is lost."""

import argparse
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu.bare import ROOT
from benchmarks.gpu.context import Context
from benchmarks.gpu.report import NAME, Report
from benchmarks.gpu.stages import STAGES, work

POLL_S = 0.2
DEFAULT_REFERENCES = ROOT / "benchmarks" / "results" / "gpu_references.npz"


def main() -> int:
    """Run the command; the exit code is 0 if no stage failed."""
    wanted = arguments()
    start = wanted.start or time.time()
    context = Context(**{**vars(wanted), "start": start})
    if wanted.start is not None:
        return work(context)
    context.out.mkdir(parents=True, exist_ok=True)
    (context.out / NAME).unlink(missing_ok=True)
    while len(Report.read(context.out).stages) < len(STAGES):
        if not supervise(context):
            break
    shutil.rmtree(context.scratch)
    return int(any(one.outcome == "FAIL" for one in Report.read(context.out).stages))


def supervise(context: Context) -> bool:
    """Let a process work through the stages that are left; return False if the command was told to stop."""
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.gpu", *process_arguments(context)], cwd=ROOT)
    stopped: list[int] = []

    def stop(number: int, _frame: object) -> None:
        stopped.append(number)
        process.send_signal(signal.SIGTERM)

    before = [signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)]
    reason = "the process ended"
    while process.poll() is None:
        report = Report.read(context.out)
        if report.running is not None and time.time() > STAGES[len(report.stages)].deadline(context, report.since):
            reason = "no answer in time"
            process.kill()
        time.sleep(POLL_S)
    for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
        signal.signal(number, handler)
    report = Report.read(context.out)
    if report.running is None and process.returncode not in (0, 1, 75):
        report.begin(STAGES[len(report.stages)].name)  # it ended before the stage began, as for a failing import
    if report.running is not None:
        report.end("FAIL", {"reason": f"{reason}, exit code {process.returncode}"})
    return not stopped


def process_arguments(context: Context) -> list[str]:
    """Return the arguments of a process that works through the stages."""
    found = ["--seconds", str(context.seconds), "--start", str(context.start), "--device", context.device]
    for name in ("out", "weights", "run", "references"):
        found += [f"--{name}", str(getattr(context, name).resolve())]
    return [*found, "--smoke"] if context.smoke else found


def arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--seconds", type=float, required=True, help="time of the whole run")
    parser.add_argument("--out", type=Path, required=True, help="folder for the report, the states and the samples")
    parser.add_argument("--weights", type=Path, default=ROOT / "weights" / "qm9", help="the weights to check")
    parser.add_argument("--run", type=Path, default=ROOT / "weights" / "qm9" / "run-wide", help="the run to go on with")
    parser.add_argument("--references", type=Path, default=DEFAULT_REFERENCES, help="made by benchmarks.gpu.references")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a test")
    parser.add_argument("--smoke", action="store_true", help="a few molecules and seconds of everything")
    parser.add_argument("--start", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()
