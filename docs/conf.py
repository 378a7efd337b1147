"""Sphinx configuration."""

import re as _re
from importlib.metadata import version as _version

project = "wfl"
author = "The wfl developers"
version = release = _version("wfl")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
html_theme = "alabaster"
html_theme_options = {"description": "the same script, here or on the queue", "page_width": "1100px"}


def _escape_underscores(app, ctx, lines):
    """Keep a word that ends with an underscore, as in the help of a command, from becoming a link."""
    lines[:] = [_re.sub(r"(?<=\w)_(?=\W|$)", r"\\_", line) for line in lines]


def setup(app):
    """Connect what is done to the texts of commands."""
    app.connect("sphinx-click-process-options", _escape_underscores)
    app.connect("sphinx-click-process-description", _escape_underscores)
