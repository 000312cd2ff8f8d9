"""How Sphinx builds the documentation: ``python -m sphinx -W -b html docs docs/_build/html``."""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from inventories import write_inventories  # noqa: E402

from kn_sock._version import __version__  # noqa: E402

project = "kn_sock"
author = "The kn_sock authors"
copyright = "2026, The kn_sock authors"
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "option_table",
]

# A name in single backticks is a Python name, linked where it is documented.
default_role = "py:obj"

html_theme = "furo"
html_title = f"kn_sock {release}"
html_static_path = ["static"]
html_css_files = ["kn_sock.css"]
exclude_patterns = ["_build"]

# Prompts and output are not copied.
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True

# The build needs no network: the inventories are made of the names that are referred to.
intersphinx_mapping = write_inventories(HERE / "_build")

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
# Aliases are shown by their names.
autodoc_type_aliases = {
    name: name
    for name in (
        "CredentialsLike",
        "DialectName",
        "EndpointLike",
        "Functions",
        "Interceptor",
        "OnConnected",
    )
}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True


def show_public_names(app, what, name, obj, options, signature, returns):
    """Remove the names of private modules from a signature."""

    def public(text):
        text = re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", text or "")
        return re.sub(r"\bkn_sock\.[\w.]*\.(?=\w)", "", text)

    if signature is None:
        return None
    return public(signature), public(returns) or None


def setup(app):
    """Connect what is done for each signature."""
    app.connect("autodoc-process-signature", show_public_names)
