"""Installs tfp_vae.

A release sets TFP_VAE_URL, the address of the repository, for the metadata.
"""

import os
import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "tfp_vae/__init__.py").read_text(), re.MULTILINE
)[1]
URL = os.environ.get("TFP_VAE_URL", "").rstrip("/")
README = (ROOT / "README.md").read_text()
if URL:  # an index shows the README without the files that it links to
    README = re.sub(r"\]\((?!https?:|#)", f"]({URL}/blob/v{VERSION}/", README)

EXAMPLES = ["matplotlib>=3.8", "pandas>=2.2", "scikit-learn>=1.4", "tensorboard>=2.18"]
TEST = [
    *EXAMPLES,
    "pydot>=3.0",
    "pytest>=8.0",
    "pytest-xdist>=3.6",
    "scipy>=1.12",
]
# The peers of the benchmarks; tf_keras comes with TFP.
BENCH = ["jax>=0.6", "numpyro>=0.19", "optax>=0.2.4", "scikit-learn>=1.4", "torch>=2.6"]
# Not MkDocs: Material, its theme for mkdocstrings, ends in May 2027.
DOCS = [
    *EXAMPLES,
    "furo==2025.12.19",
    "jupytext>=1.19",
    "myst-nb==1.4.0",
    "sphinx==9.0.4",
    "sphinx-copybutton==0.5.2",
    "sphinx-mathjax-offline==0.0.2",
]
DEV = [
    *TEST,
    *DOCS,
    "build>=1.3",
    "mypy==2.4.1",
    "pip-licenses>=5.5",
    "pre-commit>=3.7",
    "ruff==0.17.5",
    "twine>=6.2",
]

setup(
    name="tfp-vae",
    version=VERSION,
    description="TFP distributions as Keras 3 layer outputs, and the VAEs made of them",
    long_description=README,
    long_description_content_type="text/markdown",
    author="The authors of tfp_vae",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    url=URL or None,
    project_urls={
        "Source": URL,
        "Issues": f"{URL}/issues",
        "Changes": f"{URL}/blob/v{VERSION}/CHANGELOG.md",
    }
    if URL
    else {},
    keywords=[
        "keras",
        "tensorflow-probability",
        "variational autoencoder",
        "probabilistic deep learning",
    ],
    packages=find_packages(include=["tfp_vae", "tfp_vae.*"]),
    package_data={"tfp_vae": ["py.typed"]},
    python_requires=">=3.11,<3.14",
    install_requires=[
        # What the tests have seen. Before 3.14 Keras weighs a KL regularizer otherwise.
        "keras>=3.15,<3.16",
        "numpy>=1.26",
        "setuptools",  # TFP imports distutils, which Python 3.12 left to setuptools
        "tensorflow>=2.21,<2.22",
        "tensorflow-probability[tf]>=0.25,<0.26",  # [tf]: it needs tf_keras to import
    ],
    extras_require={
        "examples": EXAMPLES,
        "bench": BENCH,
        "test": TEST,
        "docs": DOCS,
        "dev": DEV,
        "gpu": ["tensorflow[and-cuda]>=2.21,<2.22"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
