"""Settings of the documentation site: `sphinx-build -W --keep-going docs build/docs`.

Everything is built from this checkout alone: nothing is fetched, and the pages load nothing from elsewhere.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# The export pipeline, and the parser that the command-line reference is made from.
sys.path[:0] = [str(ROOT), str(ROOT / "export"), str(Path(__file__).parent)]

from edgecolbert import __version__  # noqa: E402

project = "edgecolbert"
author = "The edgecolbert authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_argparse_cli"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

# Links to headings, as GitHub makes them.
myst_heading_anchors = 6

# A page that no navigation names, a link that leads nowhere and a docstring that cannot be read are warnings; -W makes
# errors of them.

# `name` in a docstring: a link where there is such a thing, code otherwise.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
# The export pipeline is read without installing torch and the like for it.
autodoc_mock_imports = [
    "onnx",
    "onnx_ir",
    "onnxruntime.quantization",
    "onnxscript",
    "safetensors",
    "torch",
    "transformers",
]
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"edgecolbert {__version__}"
html_copy_source = False
html_show_sphinx = False


def for_readers(*event: Any) -> tuple[str | None, str | None]:
    """A signature as readers need it."""
    name, signature, returned = event[2], *event[-2:]
    if name == "edgecolbert.Index":
        return "", None  # opened, never called
    # Dataclasses show `<factory>` for some defaults; without it the rest can be read as Python, and gets links.
    return None if signature is None else signature.replace("<factory>", "..."), returned


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", for_readers)
