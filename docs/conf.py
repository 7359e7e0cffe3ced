"""Configuration of the documentation's build, `make docs`."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "Darkroom"
author = "The Darkroom authors"
release = version = installed("darkroom")

extensions = ["myst_parser", "_generate"]
exclude_patterns = ["_build"]

myst_heading_anchors = 4

nitpicky = True
smartquotes = False  # options begin with two hyphens
html_theme = "furo"
html_title = "Darkroom"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"
