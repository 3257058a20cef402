"""docs/families.md says what its script finds."""

import pytest

import make_families
import tfp_vae as tv
from tfp_vae.layers.distribution_layer import DistributionLayer

# One row in six in the fast suite: each compiles its family several times.
ROWS = [
    family if i % 6 == 0 else pytest.param(family, marks=pytest.mark.slow)
    for i, family in enumerate(make_families.FAMILIES)
]


@pytest.mark.parametrize("family", ROWS)
def test_the_page_says_what_the_family_can_do(family):
    (line,) = (
        line
        for line in make_families.PAGE.read_text().splitlines()
        if line.startswith(f"| {family} |")
    )
    assert str(make_families.row(family)) == line


def test_every_family_is_on_the_page():
    layers = {
        name
        for name in tv.__all__
        if isinstance(getattr(tv, name), type)
        and issubclass(getattr(tv, name), DistributionLayer)
    }
    rows = {name.split(",")[0] for name in make_families.FAMILIES}
    without_a_row = {
        "AutoregressiveTransform",
        "DistributionLambda",
        "DistributionLayer",
        "VariationalGaussianProcess",  # one distribution for all rows
    }
    assert rows == layers - without_a_row


def test_the_rest_of_the_page():
    page = make_families.TEMPLATE.format(
        rows="ROWS",
        priors=", ".join(make_families.PRIORS),
        d=make_families.D,
        draws=make_families.DRAWS,
    )
    head, tail = page.split("ROWS")
    text = make_families.PAGE.read_text()
    assert text.startswith(head)
    assert text.endswith(tail)
