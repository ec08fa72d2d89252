"""The build steps that pyproject.toml cannot express: `enflow` is this folder, and a wheel contains the built page."""

import shutil
import subprocess
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

WEB = Path(__file__).parent / "service" / "web"


def build_page() -> None:
    """Build the page with npm.

    Raises:
        SystemExit: npm is not installed.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("found no service/web/dist and no npm: run `make page` first, or install Node.js")
    subprocess.run([npm, "ci", "--omit=dev", "--no-audit", "--no-fund"], cwd=WEB, check=True)
    subprocess.run([npm, "run", "build"], cwd=WEB, check=True)


class BuildWithPage(build_py):
    """The build command, which also builds the page if it is missing."""

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)  # setuptools keeps modules there that were deleted
            if not (WEB / "dist" / "index.html").is_file():
                build_page()
        super().run()

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """Return the modules of a package without this file, which lies in the folder of the package `enflow`."""
        modules = super().find_package_modules(package, package_dir)
        return [found for found in modules if found[:2] != ("enflow", "setup")]


setup(
    packages=["enflow", *(f"enflow.{name}" for name in find_packages(include=["model*", "service*"]))],
    package_dir={"enflow": "."},
    package_data={
        "enflow": ["weights/*/*.json", "weights/*/*.html", "weights/*/*.npy", "weights/*/*.safetensors"],
        "enflow.model.training": ["configs/*.json"],
        "enflow.service": ["web/dist/**"],
    },
    cmdclass={"build_py": BuildWithPage},
)
