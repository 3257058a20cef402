"""Values of a parameter that only `-m slow` runs."""

import pytest


def except_for(kept, values):
    """Marks all values as slow but those kept; a tuple is several arguments."""
    return [
        pytest.param(
            *(value if isinstance(value, tuple) else (value,)),
            marks=() if value in kept else pytest.mark.slow,
        )
        for value in values
    ]
