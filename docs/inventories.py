"""Inventories of Python's and Twisted's documentation, made of the names that ours refers to."""

import zlib
from pathlib import Path

# A project: its address, and for each page the names that are documented there.
PROJECTS = {
    "python": (
        "https://docs.python.org/3",
        {
            "library/asyncio-future.html": ["asyncio.wrap_future"],
            "library/concurrent.futures.html": [
                "concurrent.futures.Executor",
                "concurrent.futures.Future",
            ],
            "library/functions.html": ["map"],
            "library/threading.html": ["threading.Event"],
        },
    ),
    "twisted": (
        "https://docs.twisted.org/en/stable/api",
        {
            "twisted.application.internet.ClientService.html": [
                "twisted.application.internet.ClientService"
            ],
            "twisted.cred.checkers.ICredentialsChecker.html": [
                "twisted.cred.checkers.ICredentialsChecker"
            ],
            "twisted.cred.html": ["twisted.cred"],
            "twisted.cred.portal.IRealm.html": ["twisted.cred.portal.IRealm"],
            "twisted.cred.portal.Portal.html": ["twisted.cred.portal.Portal"],
            "twisted.internet.defer.Deferred.html": ["twisted.internet.defer.Deferred"],
            "twisted.internet.interfaces.IAddress.html": ["twisted.internet.interfaces.IAddress"],
            "twisted.internet.task.Clock.html": ["twisted.internet.task.Clock"],
        },
    ),
}


def inventory_of(project: str, pages: dict[str, list[str]]) -> bytes:
    """Return an inventory in version 2 of Sphinx's format."""
    head = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n"
    head += "# The remainder of this file is compressed using zlib.\n"
    lines = [
        f"{name} py:class 1 {page}{'#' + name if project == 'python' else ''} -"
        for page, names in pages.items()
        for name in names
    ]
    return head.encode() + zlib.compress("\n".join([*lines, ""]).encode())


def write_inventories(directory: Path) -> dict[str, tuple[str, str]]:
    """Write the inventories, and return the mapping that Sphinx wants."""
    directory.mkdir(exist_ok=True)
    mapping = {}
    for project, (address, pages) in PROJECTS.items():
        path = directory / f"{project}.inv"
        path.write_bytes(inventory_of(project, pages))
        mapping[project] = (address, str(path))
    return mapping
