"""A figure that needs no display, and its colours."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Blue and vermilion of Okabe and Ito's palette, for all kinds of colour vision.
BLUE = "#0072B2"
VERMILION = "#D55E00"
# Ten classes for the same: Petroff, Accessible color sequences for data visualization,
# 2021, https://arxiv.org/abs/2107.02270.
CLASSES = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)


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
