"""What is installed is what was written: from the directory, in place, the wheel, the sdist."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]

PATIENCE = 120.0


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command that has to succeed, away from the checkout's own modules."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


# Everything that is written by hand; what building and testing leave behind is not copied.
WRITTEN = (
    *("setup.cfg", "setup.py", "pyproject.toml", "MANIFEST.in", "README.rst", "LICENSE"),
    *("CHANGELOG.rst", "kn_sock", "twisted", "tests", "examples", "docs", "changes", "benchmarks"),
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, so that a build leaves nothing behind in them."""
    copy = tmp_path_factory.mktemp("source")
    left_out = shutil.ignore_patterns("__pycache__", "_build", "dropin.cache", "*.egg-info")
    for name in WRITTEN:
        if (TOP / name).is_dir():
            shutil.copytree(TOP / name, copy / name, ignore=left_out)
        else:
            shutil.copy(TOP / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel and the sdist."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, cwd=out)
    (wheel,) = out.glob("*.whl")
    (sdist,) = out.glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


@pytest.fixture
def fresh_python(tmp_path: Path) -> Path:
    """The interpreter of a new environment that has the dependencies, and not kn_sock."""
    directory = tmp_path / "environment"
    venv.create(directory, with_pip=False, symlinks=True)
    python = directory / "bin" / "python"
    site_packages = run(
        python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path
    ).strip()
    dependencies = sysconfig.get_path("purelib")
    (Path(site_packages) / "dependencies.pth").write_text(f"{dependencies}\n")
    return python


# The command, and then where what it found is.
LIST_COMMANDS = """
import sys
from twisted.scripts.twistd import run
sys.argv = ["twistd", "--help"]
try:
    run()
finally:
    import kn_sock, twisted.plugins.kn_sock_plugin as plugin
    print(kn_sock.__file__)
    print(plugin.__file__)
"""


@pytest.mark.parametrize("what", ["directory", "in place", "wheel", "sdist"])
def test_twistd_finds_the_plugin_however_it_was_installed(
    what: str, fresh_python: Path, source: Path, built: dict[str, Path], tmp_path: Path
) -> None:
    target = [str(built.get(what, source))]
    home = fresh_python.parent.parent
    if what == "in place":
        target.insert(0, "--editable")
        home = source
    run(
        *(sys.executable, "-m", "pip", "--python", fresh_python, "install", "--no-deps"),
        *("--no-index", "--no-build-isolation", "--disable-pip-version-check", *target),
        cwd=tmp_path,
    )
    text = run(fresh_python, "-c", LIST_COMMANDS, cwd=tmp_path)
    assert "knsock" in text
    assert "Serve Python functions" in text
    for path in text.splitlines()[-2:]:
        assert path.startswith(str(home.resolve())), path


def test_the_wheel_holds_the_package_and_the_plugin_and_nothing_else(
    built: dict[str, Path],
) -> None:
    names = zipfile.ZipFile(built["wheel"]).namelist()
    assert "kn_sock/py.typed" in names
    assert "kn_sock/conformance/cases.txt" in names
    assert "twisted/plugins/kn_sock_plugin.py" in names
    assert "twisted/plugins/kn_sock_token_plugin.py" in names
    assert "twisted/__init__.py" not in names
    assert "twisted/plugins/__init__.py" not in names
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"kn_sock", "twisted"}


def test_the_sdist_can_be_tested_and_documented(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in (
        "tests/project/test_packaging.py",
        "examples/math_service.py",
        "benchmarks/bare.py",
        "docs/conf.py",
        "LICENSE",
    ):
        assert name in names


def test_setup_cfg_lists_every_package() -> None:
    config = configparser.ConfigParser()
    config.read(TOP / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    there = {
        ".".join(init.parent.relative_to(TOP).parts)
        for init in (TOP / "kn_sock").rglob("__init__.py")
    }
    assert listed == there | {"twisted.plugins"}
