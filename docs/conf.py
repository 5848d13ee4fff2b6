"""Sphinx reads the pages that `docs.generate` has put together; `scripts/docs` runs both."""

from gendebug_torch import __version__

project = "gendebug_torch"
author = "the gendebug_torch authors"
project_copyright = f"{author}, Apache-2.0"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["attrs_inline", "colon_fence"]
myst_heading_anchors = 3
default_role = "code"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
# Attributes of a frozen value are described in the Args of its class.
autodoc_default_options = {"exclude-members": "plot_on"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
html_theme = "furo"
html_title = "gendebug_torch"
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["static"]
html_css_files = ["narrow.css"]


def setup(app):
    """Bars in docstrings are absolute values, and mean nothing to Sphinx."""

    def escape(app, kind, name, value, options, lines):
        lines[:] = [line.replace("|", r"\|") for line in lines]

    app.connect("autodoc-process-docstring", escape)
