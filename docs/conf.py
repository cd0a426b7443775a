"""Sphinx' settings for `make docs`; tests/docs/build_site.py prepares the folder that Sphinx reads."""

project = "Last Across"
author = "The authors of Last Across"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "index"
# Links to headings are checked, with the names that code hosts give to headings.
myst_heading_anchors = 4
html_theme = "furo"
html_title = "Last Across"
# Pages are also there as plain Markdown, so nobody needs Sphinx' copy of the source.
html_copy_source = False
html_show_sphinx = False
