"""How Sphinx builds the documentation: ``python -m sphinx -W -b html docs docs/_build/html``."""

from kn_sock._version import __version__

project = "kn_sock"
author = "The kn_sock authors"
copyright = "2026, The kn_sock authors"
version = release = __version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]

# A name in single backticks is a Python name, linked where it is documented here.
default_role = "py:obj"

html_theme = "alabaster"
html_theme_options = {"description": "Call Python functions in another process"}
exclude_patterns = ["_build"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
