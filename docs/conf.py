"""Sphinx configuration."""

from importlib.metadata import version as _version

project = "wfl"
author = "The wfl developers"
version = release = _version("wfl")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx_click"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autosummary_generate = True
napoleon_google_docstring = False
html_theme = "alabaster"
html_theme_options = {"description": "the same script, here or on the queue", "page_width": "1100px"}
