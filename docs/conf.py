"""Settings of the documentation site, which `make docs` builds with Sphinx."""

import guidsvc

project = "guidsvc"
version = release = guidsvc.__version__
extensions = ["myst_parser", "sphinxcontrib.mermaid"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"guidsvc {release}"
nitpicky = True

myst_enable_extensions = ["colon_fence"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 4  # as GitHub has them, so that links work there and here
suppress_warnings = ["misc.highlighting_failure"]
"""Examples of responses leave parts out, so not all of them are JSON."""
linkcheck_ignore = [r"https?://(127\.0\.0\.1|localhost|[\w.-]+\.example)\b.*"]
