"""The parts of the build that pyproject.toml cannot say: `enflow` is this folder, and a wheel holds the built page."""

import shutil
import subprocess
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

WEB = Path(__file__).parent / "service" / "web"


class BuildWithPage(build_py):
    """Build the page with npm where it is missing, then copy the files of the package."""

    def run(self) -> None:
        if not self.editable_mode and not (WEB / "dist" / "index.html").is_file():
            npm = shutil.which("npm")
            if npm is None:
                raise SystemExit("found no service/web/dist and no npm: run `make page` first, or install Node.js")
            subprocess.run([npm, "ci", "--omit=dev", "--no-audit", "--no-fund"], cwd=WEB, check=True)
            subprocess.run([npm, "run", "build"], cwd=WEB, check=True)
        super().run()


setup(
    packages=["enflow", *(f"enflow.{name}" for name in find_packages(include=["model*", "service*"]))],
    package_dir={"enflow": "."},
    package_data={
        "enflow": ["weights/*/*.json", "weights/*/*.html", "weights/*/*.safetensors"],
        "enflow.model.training": ["configs/*.json"],
        "enflow.service": ["web/dist/**"],
    },
    cmdclass={"build_py": BuildWithPage},
)
