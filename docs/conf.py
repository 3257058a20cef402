"""Settings of the documentation site: `python -m sphinx -W docs output/site`."""

import hashlib
import importlib.metadata
import importlib.util
import inspect
import os
import pathlib
import re
import zlib
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tfp_vae

DOCS = pathlib.Path(__file__).parent
BUILD = DOCS.parent / "output"

project = "tfp_vae"
version = release = tfp_vae.__version__
copyright = "the authors of tfp_vae"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
templates_path = ["_templates"]
exclude_patterns = ["_templates"]
# Names in single backticks become links where something has that name.
default_role = "obj"

html_theme = "furo"
html_title = f"tfp_vae {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
copybutton_exclude = ".linenos, .gp, .go"


def mathjax() -> str:
    """The one file of MathJax that draws equations without a network."""
    # The package is a Sphinx extension too, but that copies 24 MB into each site.
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    if package is None or package.origin is None:
        raise ImportError(
            "sphinx-mathjax-offline is missing. Install the extra 'docs'."
        )
    return str(pathlib.Path(package.origin).parent / "static/mathjax/tex-svg.js")


html_static_path.append(mathjax())
mathjax_path = "tex-svg.js"


def code_version() -> str:
    """A hash of what else than their own code the outputs of notebooks depend on."""
    versions = [importlib.metadata.version(n) for n in ("keras", "tensorflow", "numpy")]
    found = hashlib.sha256("\n".join(versions).encode())
    for folder in ("tfp_vae", "examples"):
        for path in sorted((DOCS.parent / folder).rglob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()[:16]


myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "cache"
nb_execution_cache_path = str(BUILD / "notebooks" / code_version())
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"

autosummary_generate = True
# Some file systems take the page of `DCI` for that of `dci`.
autosummary_filename_map = {
    "tfp_vae.disentanglement.DCI": "tfp_vae.disentanglement.DCI_values"
}
autodoc_typehints = "none"
napoleon_custom_sections = [("Call arguments", "params_style"), "Reference"]
maximum_signature_line_length = 72

# What the page of a class lists beside it: most classes have little else to call.
METHODS = {
    "VAE": """
        compile fit evaluate predict encode decode reconstruct generate interpolate
        traverse log_prob elbo impute classify prior_distribution save load_weights
        export
    """,
    "Model": "compile fit evaluate predict save load_weights",
    "DistributionLayer": "make_distribution distribution_for",
    "DistributionTensor": "tensor_distribution numpy",
    "Table": """
        kinds slices width to_array to_frame likelihood normalization
        bias_initializer
    """,
    "Multinomial": "params_size from_total",
    "DirichletMultinomial": "params_size from_total",
    "PredictiveDistribution": """
        epistemic_stddev aleatoric_stddev epistemic_entropy aleatoric_entropy cdf
        survival_function quantile
    """,
}
# Classes outside of `__all__` that docstrings refer to.
REFERRED = {
    "KLTarget": "tfp_vae.kl.target",
    "IndependentLayer": "tfp_vae.layers.independent_layer",
    "LocationScaleLayer": "tfp_vae.layers.location_scale",
    "RelaxedLayer": "tfp_vae.layers.relaxed",
    "PredictiveDistribution": "tfp_vae.prediction.predictive_distribution",
    "DenseWithRandomWeights": "tfp_vae.weights.dense",
    "ConvolutionWithRandomWeights": "tfp_vae.weights.convolution",
    "LinearWithRandomWeights": "tfp_vae.weights.linear",
    "RandomWeights": "tfp_vae.weights.random_weights",
}
autosummary_context = {
    "listed": {
        f"tfp_vae.{name}": METHODS[name].split()
        if name in METHODS
        else [m for m in ("params_size", "new") if hasattr(getattr(tfp_vae, name), m)]
        for name in tfp_vae.__all__
    }
    | {
        f"{module}.{name}": METHODS.get(name, "").split()
        for name, module in REFERRED.items()
    }
}


def inventories() -> dict[str, tuple[str, str]]:
    """Addresses of names of Keras, TensorFlow and TFP, which publish no inventory."""
    path = BUILD / "names.inv"
    path.parent.mkdir(exist_ok=True)
    head = (
        "# Sphinx inventory version 2\n# Project: others\n# Version: \n"
        "# The remainder of this file is compressed using zlib.\n"
    )
    lines = [line.split() for line in (DOCS / "names.txt").read_text().splitlines()]
    body = "".join(f"{name} py:data 1 {address} -\n" for name, address in lines)
    path.write_bytes(head.encode() + zlib.compress(body.encode()))
    return {"others": ("https://", str(path))}


intersphinx_mapping = inventories()
intersphinx_timeout = 1


class Default:
    """A default value whose `repr` would be an address: its name, or three dots."""

    def __init__(self, value: Any) -> None:
        self.name = getattr(value, "__name__", "...")

    def __repr__(self) -> str:
        """What the signature shows."""
        return self.name


def signature(
    app: Any, what: str, name: str, member: Any, options: Any, args: str, returned: str
) -> tuple[str, str] | None:
    """The arguments of a class, which the `__new__` of Keras' models hides."""
    if what != "class":
        return None
    if member.__init__ is object.__init__:  # a NamedTuple, or what a function makes
        fields = getattr(member, "_fields", ())
        return f"({', '.join(fields)})" if fields else "", returned
    shown = []
    for parameter in list(inspect.signature(member.__init__).parameters.values())[1:]:
        if " at 0x" in repr(parameter.default):
            parameter = parameter.replace(default=Default(parameter.default))
        shown.append(parameter.replace(annotation=parameter.empty))
    return str(inspect.Signature(shown)), returned


def markdown(
    app: Any, what: str, name: str, member: Any, options: Any, lines: list[str]
) -> None:
    """Takes single backticks for code, as Keras' docstrings do."""

    def literal(found: re.Match[str]) -> str:
        text = found[1]
        if text is None:  # a role such as :math:`x`, or a literal already
            return found[0]
        # `a.name` may become a link; `x[:-1]` and `.keras` are set as they stand.
        if not re.fullmatch(r"\w[\w.]*", text):
            return f"`{found[0]}`"
        if text in REFERRED:
            return f"`{text} <{REFERRED[text]}.{text}>`"
        return re.sub(r"^`tv\.(.*)`$", r"`tv.\1 <tfp_vae.\1>`", found[0])

    text = "\n".join(lines)
    text = re.sub(r":\w+:`[^`]+`|``[^`]+``|`([^`]+)`", literal, text)
    # Pages of this site, named as in the repository.
    lines[:] = re.sub(r"\bdocs/([\w/]+)\.md", r":doc:`/\1`", text).split("\n")


def setup(app: Any) -> None:
    """Connects what autodoc asks."""
    app.connect("autodoc-process-docstring", markdown, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", signature)
