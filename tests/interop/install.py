"""Install the programs that kn_sock is tried against, below one directory.

    python tests/interop/install.py [DIRECTORY]      (default: .peers in the checkout)

What comes from PyPI goes into a virtual environment of its own, what comes from npm beside it; the
programs in Go and C++ are built where their compilers and libraries are found (Debian's golang-go,
g++ and libjsonrpccpp-dev). Tests whose programs are missing are skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEFAULT_DIRECTORY = HERE.parent.parent / ".peers"
OLD_KN_SOCK = "kn-sock==0.3.0"
ELECTRUM_CLIENT = "electrum-client==0.1.0"


class NotHere(Exception):
    """Something that an installation needs is not on this machine."""


def needs(program: str, package: str) -> str:
    """Give the path of a program.

    Raises:
        NotHere: it is not there; *package* says what would bring it.
    """
    found = shutil.which(program)
    if found is None:
        raise NotHere(f"there is no {program} (Debian: {package})")
    return found


def run(*command: str | Path, **variables: str) -> None:
    """Run a command, its output to ours."""
    subprocess.run(command, check=True, env={**os.environ, **variables})


def install_python(directory: Path) -> None:
    """Install what is on PyPI."""
    environment = directory / "venv"
    venv.create(environment, with_pip=True, clear=True)
    python = environment / "bin" / "python"
    pip = [str(python), "-m", "pip", "-q", "--disable-pip-version-check"]
    run(*pip, "install", "--upgrade", "--target", directory / "electrum-client", ELECTRUM_CLIENT)
    install_old_kn_sock(directory / "kn-sock-0.3", pip)
    run(*pip, "install", "-r", HERE / "requirements.txt")


def install_old_kn_sock(directory: Path, pip: list[str]) -> None:
    """Install kn-sock 0.3, its remote calls under a name of their own, and its tests."""
    # Alone: what it depends on is for the parts that are not tried.
    run(*pip, "install", "--no-deps", "--upgrade", "--target", directory, OLD_KN_SOCK)
    alone = directory / "alone"
    alone.mkdir(exist_ok=True)
    shutil.copy(directory / "kn_sock" / "rpc.py", alone / "old_kn_sock_rpc.py")
    # The tests are in its source distribution alone.
    sources = ["--no-binary", "kn-sock", "--dest", str(directory)]
    run(*pip, "download", "--no-deps", *sources, OLD_KN_SOCK)
    with tarfile.open(directory / "kn_sock-0.3.0.tar.gz") as archive:
        member = archive.extractfile("kn_sock-0.3.0/test/test_tcp_udp_msg.py")
        assert member is not None
        (alone / "own_tests.py").write_bytes(member.read())


def install_node(directory: Path) -> None:
    """Install what is on npm."""
    npm = needs("npm", "npm")
    shutil.copy(HERE / "package.json", directory)
    run(npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", directory)


def build_go(directory: Path) -> None:
    """Build the programs in Go; they need its standard library alone."""
    go = needs("go", "golang-go")
    for source in sorted((HERE / "programs").glob("*.go")):
        target = directory / "bin" / f"go-{source.stem}"
        run(go, "build", "-o", target, source, GO111MODULE="off", GOFLAGS="", CGO_ENABLED="0")


def build_cpp(directory: Path) -> None:
    """Build the programs in C++, with libjson-rpc-cpp."""
    compiler = needs("g++", "g++")
    if not Path("/usr/include/jsonrpccpp").exists():
        raise NotHere("there is no libjson-rpc-cpp (Debian: libjsonrpccpp-dev)")
    # Its headers have exception specifications, which C++17 forbids and C++14 warns of.
    options = ["-std=c++14", "-w", "-o"]
    for role in ("client", "server"):
        source, target = HERE / "programs" / f"{role}.cpp", directory / "bin" / f"cpp-{role}"
        libraries = [f"-ljsonrpccpp-{role}", "-ljsonrpccpp-common", "-ljsoncpp"]
        run(compiler, *options, target, source, *libraries)


STEPS: dict[str, Callable[[Path], None]] = {
    "PyPI": install_python,
    "npm": install_node,
    "Go": build_go,
    "C++": build_cpp,
}


def main(directory: Path) -> None:
    """Take every step that can be taken here."""
    (directory / "bin").mkdir(parents=True, exist_ok=True)
    for name, step in STEPS.items():
        try:
            step(directory)
        except NotHere as problem:
            print(f"{name}: left out, {problem}")
        else:
            print(f"{name}: installed")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else DEFAULT_DIRECTORY)
