"""How the site is made: `sphinx-build -W --keep-going -n -b html docs build/site`.

-W makes a broken link an error. The pages work without network: no font, script or formula is loaded from anywhere
else. What goes stale when it is written by hand (commands, file formats, names in Python) is read off the code.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from safelox import __version__

project = "safelox"
author = "The safelox developers"
copyright = "The safelox developers, MIT licence"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "command_pages",
    "function_page",
    "project_pages",
    "record_tables",
    "mathml",
]
exclude_patterns = ["_ext", "_build"]
html_theme = "furo"
html_title = f"safelox {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
default_role = "literal"  # of single backticks in docstrings
smartquotes = False  # they would make one dash of the two before an option
html_copy_source = False
html_show_sourcelink = False

myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4
html_math_renderer = "mathml"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
toc_object_entries_show_parents = "hide"
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Names of other libraries and of Python itself: their documentation is elsewhere.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|pathlib|collections|typing|typing_extensions|pydantic|contextlib|builtins|os|numpy)\..*"),
    ("py:.*", r"(Path|Sequence|Mapping|Literal|Any|Callable|Iterable|bool|int|float|str|None|optional)"),
]
