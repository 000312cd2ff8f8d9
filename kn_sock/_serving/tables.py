"""The table of methods that a factory serves, by its options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.logger import Logger

if TYPE_CHECKING:
    from kn_sock.methods.table import MethodTable
    from kn_sock.options import ServerOptions

log = Logger(namespace="kn_sock.methods")


def served_table(table: MethodTable, options: ServerOptions) -> MethodTable:
    """Return a table whose methods follow the options; warn of annotations that check nothing.

    Each table is warned of once, however many ports serve it.

    Raises:
        TypeError: there are such annotations, and ``strict_annotations`` is on.
    """
    if table.forbids_unknown_fields is not options.forbid_unknown_fields:
        table = type(table)(table, forbid_unknown_fields=options.forbid_unknown_fields)
    unchecked = table.unchecked
    if unchecked and options.strict_annotations:
        raise TypeError("\n".join(unchecked))
    if not table.has_been_warned_of:
        table.has_been_warned_of = True
        for sentence in unchecked:
            log.warn("{sentence}", sentence=sentence)
    return table
