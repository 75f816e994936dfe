"""Sphinx's configuration: pages in Markdown, the API from docstrings, the notebooks; nothing loaded
from elsewhere.

sphinx-build -W --keep-going docs build/docs
"""

import os
import pathlib
import sys

from sphinx.application import Sphinx

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
os.environ["PYTHONPATH"] = str(HERE.parent)  # for the notebooks, where they are run

import docstrings  # noqa: E402 - beside this file
import generate  # noqa: E402
import mathml  # noqa: E402

import arcface_jax  # noqa: E402, F401 - a build without it would document nothing

project = "arcface-jax"
author = "The arcface-jax developers"
version = release = generate.version()

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb"]
# This file and those beside it are no notebooks; the table of recipes is part of a page.
exclude_patterns = ["*.py", "generated/recipes.md"]
# What is left of single backticks in docstrings: a link where the name is documented.
default_role = "py:obj"
nitpicky = False

autodoc_default_options = {"members": True, "member-order": "bysource", "ignore-module-all": True}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
napoleon_use_ivar = True  # a dataclass's fields are documented in its own docstring, or below each

myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
# The tests run the notebooks; `-D nb_execution_mode=force` runs them here as well, and shows what
# they give.
nb_execution_mode = "off"
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_timeout = 600
# Needs real faces, which are not part of the repository.
if not (HERE.parent.parent / "shared" / "data").is_dir():
    nb_execution_excludepatterns = ["*trained_model*"]

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "arcface-jax"
html_static_path = ["static"]
html_css_files = ["wide.css"]
html_copy_source = False
html_show_sourcelink = False


def setup(app: Sphinx) -> None:
    """Writes the pages that are generated, before Sphinx looks for pages."""
    generate.write_pages(HERE / "generated")
    docstrings.connect(app)
    mathml.connect(app)
