"""A figure that needs no display."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure.

    Args:
        width: In inches.
        height: In inches.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed.

    Example:
        >>> new_figure(4.0, 3.0).get_size_inches()
        array([4., 3.])
    """
    # Imported here, since only figures need it.
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"Figures expect matplotlib. Received: {error}. Install it: "
            '`pip install "tfp-vae[examples]"`.'
        ) from error
    return Figure((width, height), layout="constrained")
