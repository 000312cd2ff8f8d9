"""The directive ``option-table``: the table of the server's options, made of their declarations."""

import dataclasses

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

from kn_sock._declarations import declarations
from kn_sock.options import ServerOptions


def default_text(field, declaration):
    """Return the default of an option, as the table shows it."""
    if declaration.default:
        return declaration.default
    default = field.default
    if default is None or default == ():
        return "none"
    if isinstance(default, bool):
        return {True: "``True`` (``yes``)", False: "``False`` (``no``)"}[default]
    if isinstance(default, (int, float)):
        return f"{default:,g}" if isinstance(default, float) else f"{default:,}"
    return f"``{default}``"


def rows():
    """Return a row for each option: its name, flag, default, unit and values, and help."""
    declared = declarations(ServerOptions)
    for field in dataclasses.fields(ServerOptions):
        one = declared[field.name]
        flag = field.name.replace("_", "-") if one.read is not None else one.flag
        yield (
            f"``{field.name}``",
            f"``--{flag}``" if flag else "none",
            default_text(field, one),
            ", ".join(part for part in (one.unit, one.values) if part),
            one.help,
        )


def table():
    """Return the table in reStructuredText, line by line."""
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 19 21 15 17 28", ""]
    for row in [("Option", "Flag of twistd", "Default", "Unit and range", "Effect"), *rows()]:
        for number, cell in enumerate(row):
            lines.append(f"   {'* -' if number == 0 else '  -'} {cell}".rstrip())
    return lines


class OptionTable(Directive):
    """Inserts the table."""

    def run(self):
        """Return the nodes of the table."""
        node = nodes.Element()
        self.state.nested_parse(StringList(table(), "option_table.py"), 0, node)
        return node.children


def setup(app):
    """Register the directive."""
    app.add_directive("option-table", OptionTable)
    return {"parallel_read_safe": True}
