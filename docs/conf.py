"""Sphinx's settings; `make docs` builds the pages, warnings are errors."""

import os
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import softdiamond

HERE = Path(__file__).parent

project = "softdiamond"
author = copyright = "The softdiamond developers"
version = release = softdiamond.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery", "results/*/notes.md", "sg_execution_times.rst"]
html_theme = "furo"
html_title = "softdiamond"
default_role = "py:obj"
suppress_warnings = ["config.cache"]  # the sorting key of the gallery

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"
METHODS = "fit", "partial_fit", "predict", "score", "transform", "inverse_transform", "predict_proba"
autodoc_default_options = {
    "exclude-members": ", ".join(f"set_{name}_request" for name in METHODS)
}  # scikit-learn's own
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "filename_pattern": r"\.py$",
    "abort_on_example_error": True,
    "show_memory": False,
    "capture_repr": (),
    "download_all_examples": False,
    "remove_config_comments": True,
}

# --- one page of the API for each module that can be imported here --------------------------------------------------------

MODULES = {  # module: (what it is, the package without which it cannot be imported)
    "softdiamond.regularizer": ("a penalty on the weights of a model", ""),
    "softdiamond.parameters": ("which parameters are eligible, and their initial rms", ""),
    "softdiamond.strength": ("strength, scale and lambda", ""),
    "softdiamond.plan": ("the printed plan", ""),
    "softdiamond.penalties": ("the penalties on tensors", ""),
    "softdiamond.penalties.groups": ("which weights share a norm", ""),
    "softdiamond.pruning": ("measures of sparsity, pruning by magnitude", ""),
    "softdiamond.compression": ("smaller networks, their files, checkpoints", ""),
    "softdiamond.audit": ("the laws of a checkpoint's tensors", ""),
    "softdiamond.stable": ("the exact law", ""),
    "softdiamond.table": ("its look-up table", ""),
    "softdiamond.penalties.prox": ("the exact proximal map", ""),
    "softdiamond.distributions": ("the law as a torch distribution", ""),
    "softdiamond.keras": ("Keras 3", "keras"),
    "softdiamond.jax": ("JAX and optax", "optax"),
    "softdiamond.trainers": ("Lightning, Transformers, Accelerate", "lightning"),
    "softdiamond.sklearn": ("scikit-learn: linear estimators", "sklearn"),
    "softdiamond.feature_selection": ("scikit-learn: networks that choose their columns", "sklearn"),
    "softdiamond.plotting": ("pictures of laws, constraint sets and paths", "matplotlib"),
    "softdiamond.experiments.figures": ("pictures of a comparison", "matplotlib"),
}


def write_api() -> None:
    folder = HERE / "api"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.rst"):
        old.unlink()
    for module, (what, needs) in MODULES.items():
        if find_spec(module) is None or (needs and find_spec(needs) is None):
            print(f"no page of {module}: {'not there' if find_spec(module) is None else needs + ' is not installed'}")
            continue
        title = f"``{module}``: {what}"
        body = f".. automodule:: {module}\n   :members:\n   :show-inheritance:\n"
        (folder / f"{module.rpartition('.')[2]}.rst").write_text(f"{title}\n{'=' * len(title)}\n\n{body}", "utf-8")


write_api()
