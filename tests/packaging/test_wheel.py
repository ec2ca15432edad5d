"""What a user gets from the index: a wheel that holds everything it promises."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
PACKAGES = [Path(name) for name in PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as `pip install .` would."""
    folder = tmp_path_factory.mktemp("wheel")
    command = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(REPOSITORY))
    subprocess.run(command, check=True, timeout=110)
    (built,) = folder.glob("*.whl")
    return built


def test_every_package_is_listed() -> None:
    """A folder with a package that the wheel would miss does not exist, and each says that it is typed."""
    found = {
        path.parent.relative_to(REPOSITORY)
        for room in ("adapters", "controlplane")
        for path in REPOSITORY.glob(f"{room}/*/__init__.py")
    }
    assert found | {Path("meshlib")} == set(PACKAGES)
    assert [package for package in PACKAGES if not (REPOSITORY / package / "py.typed").exists()] == []


def test_parents_are_no_packages() -> None:
    """`adapters` and `controlplane` hold packages and are none: a package with two names would be loaded twice."""
    assert not (REPOSITORY / "adapters" / "__init__.py").exists()
    assert not (REPOSITORY / "controlplane" / "__init__.py").exists()


def test_the_wheel_is_whole(wheel: Path) -> None:
    """Every source file of the packages is in it, the protobuf messages, and the example that `meshlib demo` starts."""
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        str(path.relative_to((REPOSITORY / package).parent))
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sources - names == set()
    assert "meshlib/config/messages.binpb" in names
    assert "meshlib_control/demo/examples/bookinfo/templates/productpage.html" in names


def test_the_wheel_works_alone(wheel: Path, tmp_path: Path) -> None:
    """Installed without this repository on the path, the command runs and each package can be imported."""
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    # Dependencies come from the environment of the tests; the wheel itself is unpacked where only it is.
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(site), *dependencies])}
    modules = ", ".join(package.name for package in PACKAGES)
    script = f"import {modules}; print(meshlib.__file__); from meshlib_control.demo import bookinfo; print(bookinfo.folder())"
    told = subprocess.run((python, "-c", script), env=env, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert [line.startswith(str(site)) for line in told.splitlines()] == [True, True]
    version = subprocess.run(
        (python, "-m", "meshlib_control.cli", "version", "-o", "json"), env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert version.returncode == 0, version.stderr
    assert "0.1.0" in version.stdout
