"""Figures of what a VAE has learned: images, latents and their KL.

Each `plot_...` function returns a `matplotlib.figure.Figure`, which notebooks show and
`figure.savefig("samples.pdf")` writes.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfp_vae.checks import integer, interval
from tfp_vae.engine import data
from tfp_vae.evaluation.information import kl_per_dimension
from tfp_vae.latents import mean_or_center, on_the_sphere
from tfp_vae.models.data_checks import as_arrays
from tfp_vae.models.inference import traversal_values
from tfp_vae.models.missing import NAN, is_missing
from tfp_vae.plots.figure import BLUE, CLASSES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Range = tuple[float, float] | None

_MISSING = 0.5
# In inches: the height of an image, reduced if the figure would exceed the width.
_CELL = 0.6
_WIDEST = 9.0
# Of classes with a colour of their own: the second ten are triangles.
_MARKERS = "o^"
_MOST_CLASSES = len(CLASSES) * len(_MARKERS)


def plot_reconstructions(
    vae: Any,
    x: Any,
    y: Any = None,
    columns: int = 12,
    value_range: Range = None,
) -> "Figure":
    """Draws images, and below each the mean of p(x | z) at the posterior's mean z.

    Args:
        vae: A `tv.VAE` of images.
        x: Images of shape `(n, h, w)`, `(n, h, w, 1)` or `(n, h, w, 3)`, or inputs
            whose entry `vae.target` is such images. Missing entries are grey. Of a
            `tf.data.Dataset` the first batch is drawn.
        y: Conditions, if the model is conditional.
        columns: Number of images side by side.
        value_range: The values drawn black and white; by default 0 and 1, or the
            smallest and largest of x if x has values outside.

    Returns:
        A figure.

    Raises:
        ValueError: If these are not images.
        ImportError: If matplotlib is not installed.

    Example:
        >>> encoder = keras.Sequential([
        ...     keras.Input((4, 4)), keras.layers.Flatten(), keras.layers.Dense(4),
        ...     tv.IndependentNormal(2)])
        >>> decoder = keras.Sequential([
        ...     keras.Input((2,)), keras.layers.Dense(16),
        ...     tv.IndependentBernoulli((4, 4))])
        >>> vae = tv.VAE(encoder, decoder, tv.StandardNormal(2))
        >>> figure = plot_reconstructions(vae, np.eye(4)[None])
        >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
        ['x', 'reconstruction']
    """
    columns = integer(columns, "columns", "plot_reconstructions")
    if isinstance(x, tf.data.Dataset):
        x, found = as_arrays(x.take(1), y, "plot_reconstructions")
        y = found if vae.conditional else y
    images = observed(vae, x)
    columns = min(columns, len(images))
    grid = reconstruction_grid(images, vae.reconstruct(x, y), columns, value_range)
    rows = ["x", "reconstruction"] * math.ceil(len(images) / columns)
    return _drawn([grid], rows, columns)


def plot_samples(
    vae: Any,
    n: int = 100,
    *,
    y: Any = None,
    seed: int | None = None,
    temperature: float = 1.0,
    columns: int | None = None,
    value_range: Range = None,
) -> "Figure":
    """Draws new images: means of p(x | z), z from the prior.

    Args:
        vae: A `tv.VAE` of images.
        n: Number of images.
        y: Conditions of shape `(n, ...)`, if the model is conditional.
        seed: Integer for the same images at each call.
        temperature: Factor of the prior's scale.
        columns: Number of images side by side; by default a square grid.
        value_range: As in `plot_reconstructions`, found from the images drawn.

    Returns:
        A figure.

    Raises:
        ValueError: If the model makes no images.
        ImportError: If matplotlib is not installed.

    Example:
        >>> encoder = keras.Sequential([
        ...     keras.Input((4, 4)), keras.layers.Flatten(), keras.layers.Dense(4),
        ...     tv.IndependentNormal(2)])
        >>> decoder = keras.Sequential([
        ...     keras.Input((2,)), keras.layers.Dense(16),
        ...     tv.IndependentBernoulli((4, 4))])
        >>> vae = tv.VAE(encoder, decoder, tv.StandardNormal(2))
        >>> plot_samples(vae, 9, seed=0).axes[0].get_title()
        'means of p(x|z), z drawn from the prior'
    """
    images = vae.generate(n, y=y, seed=seed, temperature=temperature)
    columns = math.ceil(math.sqrt(len(images))) if columns is None else columns
    columns = min(integer(columns, "columns", "plot_samples"), len(images))
    grid = image_grid(images, columns, value_range)
    scaled = "" if temperature == 1 else f", temperature {temperature:g}"
    title = f"means of p(x|z), z drawn from the prior{scaled}"
    rows = [""] * math.ceil(len(images) / columns)
    return _drawn([grid], rows, columns, titles=[title])


def plot_traversals(
    vae: Any,
    x: Any = None,
    dimensions: Sequence[int] | None = None,
    values: Any = None,
    *,
    y: Any = None,
    value_range: Range = None,
) -> "Figure":
    """Draws the effect of latent coordinates, one per row, varied from left to right.

    Args:
        vae: A `tv.VAE` of images, whose latents are vectors.
        x: Inputs to start from, a panel for each; by default the prior's center.
        dimensions: Which coordinates; by default all.
        values: Values of the coordinate; by default 7 from -3 to 3, or from -0.9 to
            0.9 on the sphere.
        y: Conditions, if the model is conditional.
        value_range: As in `plot_reconstructions`, found from x, or from the images
            drawn if x is not given.

    Returns:
        A figure.

    Raises:
        ValueError: If the model makes no images, the latents are not vectors, or a
            dimension does not exist.
        ImportError: If matplotlib is not installed.

    Example:
        >>> encoder = keras.Sequential([
        ...     keras.Input((4, 4)), keras.layers.Flatten(), keras.layers.Dense(4),
        ...     tv.IndependentNormal(2)])
        >>> decoder = keras.Sequential([
        ...     keras.Input((2,)), keras.layers.Dense(16),
        ...     tv.IndependentBernoulli((4, 4))])
        >>> vae = tv.VAE(encoder, decoder, tv.StandardNormal(2))
        >>> figure = plot_traversals(vae, values=[-1, 0, 1])
        >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
        ['z[0]', 'z[1]']
    """
    distribution = vae.prior_distribution(y) if x is None else vae.encode(x, y)
    if values is None:
        values = traversal_values(on_the_sphere(distribution))
    images = vae.traverse(x, dimensions=dimensions, values=values, y=y)
    range_ = _range(value_range, images if x is None else observed(vae, x))
    count, rows, columns = images.shape[:3]
    panels = images.reshape(count, rows * columns, *images.shape[3:])
    return _drawn(
        [image_grid(panel, columns, range_) for panel in panels],
        [f"z[{i}]" for i in (range(rows) if dimensions is None else dimensions)],
        columns,
        # Rounded, and without the sign of -0.
        column_labels=[f"{round(float(v), 6) + 0.0:.2g}" for v in values],
        titles=[f"from x[{i}]" for i in range(count)] if count > 1 else None,
        xlabel="value of the coordinate",
    )


def plot_interpolations(
    vae: Any,
    start: Any,
    end: Any,
    num_steps: int = 10,
    *,
    y: Any = None,
    value_range: Range = None,
) -> "Figure":
    """Draws interpolations between two images, a row for each pair.

    Each row begins and ends with the images themselves. Between them are the means of
    p(x | z) at z(t), t from 0 to 1, on a straight line, or on a great circle of the
    sphere.

    Args:
        vae: A `tv.VAE` of images.
        start: Inputs of shape `(n, ...)`.
        end: Inputs of the same shape.
        num_steps: Number of points, both ends included.
        y: Conditions of shape `(n, ...)`, if the model is conditional.
        value_range: As in `plot_reconstructions`, found from start and end.

    Returns:
        A figure.

    Raises:
        ValueError: If the model makes no images, or `num_steps` is below 2.
        ImportError: If matplotlib is not installed.

    Example:
        >>> encoder = keras.Sequential([
        ...     keras.Input((4, 4)), keras.layers.Flatten(), keras.layers.Dense(4),
        ...     tv.IndependentNormal(2)])
        >>> decoder = keras.Sequential([
        ...     keras.Input((2,)), keras.layers.Dense(16),
        ...     tv.IndependentBernoulli((4, 4))])
        >>> vae = tv.VAE(encoder, decoder, tv.StandardNormal(2))
        >>> x = np.eye(4)[None]
        >>> figure = plot_interpolations(vae, x, 1 - x, num_steps=3)
        >>> [text.get_text() for text in figure.axes[0].get_xticklabels()]
        ['start', '0', '0.5', '1', 'end']
    """
    between = vae.interpolate(start, end, num_steps, y=y)
    ends = [observed(vae, part) for part in (start, end)]
    range_ = _range(value_range, np.stack(ends))
    first, last = (unit_images(part, range_)[:, None] for part in ends)
    rows, steps = between.shape[:2]
    middle = unit_images(between.reshape(-1, *between.shape[2:]), range_)
    middle = middle.reshape(rows, steps, *middle.shape[1:])
    cells = np.concatenate(_alike(first, middle, last), axis=1)
    grid = _arranged(cells.reshape(-1, *cells.shape[2:]), steps + 2)
    times = [f"{t:.2g}" for t in np.linspace(0, 1, steps)]
    labels = ["start", *times, "end"]
    return _drawn([grid], [""] * rows, steps + 2, column_labels=labels, xlabel="t")


def plot_latents(
    vae: Any,
    x: Any,
    labels: Any = None,
    dimensions: Sequence[int] | None = None,
    *,
    y: Any = None,
) -> "Figure":
    """Draws the centers of the posteriors q(z | x), a point for each example.

    Latents on the sphere in three dimensions are drawn on an equal-area map (Mollweide)
    with longitude atan2(z[1], z[0]) and latitude asin(z[2]).

    Args:
        vae: A `tv.VAE`, whose latents are vectors.
        x: Inputs of shape `(n, ...)`.
        labels: Class of each example, shown by its colour, and by triangles from the
            11th on; numbers with more than 20 values are shown on a colour scale.
        dimensions: The two coordinates to draw; by default the first two, or the map.
        y: Conditions, if the model is conditional.

    Returns:
        A figure.

    Raises:
        ValueError: If latents have no such coordinates, or there is not one label for
            each example.
        ImportError: If matplotlib is not installed.

    Example:
        >>> encoder = keras.Sequential([
        ...     keras.Input((3,)), keras.layers.Dense(4), tv.IndependentNormal(2)])
        >>> decoder = keras.Sequential([
        ...     keras.Input((2,)), keras.layers.Dense(3), tv.IndependentBernoulli(3)])
        >>> vae = tv.VAE(encoder, decoder, tv.StandardNormal(2))
        >>> figure = plot_latents(vae, np.eye(3), labels=["a", "b", "a"])
        >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        ['a', 'b']
    """
    x, y = as_arrays(x, y, "plot_latents")
    y = y if vae.conditional else None
    z = latent_centers(vae, x, y)
    sphere = on_the_sphere(vae.encode(*data.first_rows((x, y), 1)))
    as_map = dimensions is None and sphere and z.shape[1:] == (3,)
    chosen = _checked_dimensions(dimensions, z.shape[1:])
    figure = new_figure(6.4, 3.4 if as_map else 5.0)
    if as_map:
        axes = figure.add_subplot(projection="mollweide")
        axes.grid(alpha=0.4, linewidth=0.5)
        axes.tick_params(labelsize="small", colors="0.35")
        axes.set_title("centers of q(z|x)", fontsize="medium")
        axes.set(xlabel="longitude atan2(z[1], z[0])", ylabel="latitude asin(z[2])")
    else:
        axes = figure.add_subplot()
        axes.set_aspect("equal")
        axes.set_title("centers of q(z|x)", fontsize="medium")
        axes.set(xlabel=f"z[{chosen[0]}]", ylabel=f"z[{chosen[1]}]")
    if sphere and not as_map:
        angle = np.linspace(0, 2 * np.pi, 200)
        axes.plot(np.cos(angle), np.sin(angle), color="lightgray", zorder=0)
    _scatter(figure, axes, z if as_map else z[:, chosen], labels)
    return figure


def plot_kl_per_dimension(vae: Any, x: Any, y: Any = None) -> "Figure":
    """Draws the KL of each latent coordinate, the mean over x, from large to small.

    Coordinates with a KL near 0 have collapsed onto the prior.

    Args:
        vae: A `tv.VAE` whose posterior and prior factorise.
        x: Inputs of shape `(n, ...)`.
        y: Conditions, if the model is conditional.

    Returns:
        A figure.

    Raises:
        ValueError: If a distribution does not factorise.
        ImportError: If matplotlib is not installed.

    Example:
        >>> encoder = keras.Sequential([
        ...     keras.Input((3,)), keras.layers.Dense(4), tv.IndependentNormal(2)])
        >>> decoder = keras.Sequential([
        ...     keras.Input((2,)), keras.layers.Dense(3), tv.IndependentBernoulli(3)])
        >>> vae = tv.VAE(encoder, decoder, tv.StandardNormal(2))
        >>> plot_kl_per_dimension(vae, np.eye(3)).axes[0].get_ylabel()
        'KL (nats)'
    """
    y = vae.conditions_of(x, y, "plot_kl_per_dimension")
    kl = np.ravel(kl_per_dimension(vae.encode(x, y), vae.prior_distribution(y)))
    order = np.argsort(-kl, kind="stable")
    figure = new_figure(min(_WIDEST, max(4.0, 2 + 0.25 * len(kl))), 3.0)
    axes = figure.subplots()
    axes.bar(np.arange(len(kl)), kl[order], color=BLUE)
    axes.set_ylabel("KL (nats)")
    axes.set_xlabel("latent dimension")
    axes.set_title(f"KL(q(z|x) || p(z)) = {kl.sum():.2f} nats", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01)
    if len(kl) <= 30:
        axes.set_xticks(np.arange(len(kl)), order)
    else:
        axes.set_xlabel("rank of the latent dimension")
    return figure


def image_grid(
    images: Any, columns: int | None = None, value_range: Range = None
) -> np.ndarray:
    """Arranges images in a grid, row by row, with white between them.

    Args:
        images: Array of shape `(n, h, w)`, `(n, h, w, 1)` or `(n, h, w, 3)`.
        columns: Number of images in a row; by default a square grid.
        value_range: The values drawn black and white; by default 0 and 1, or the
            smallest and largest of the images if they have values outside.

    Returns:
        An array of shape `(height, width, 1 or 3)` with values from 0 to 1.

    Raises:
        ValueError: If these are not images.

    Example:
        >>> image_grid(np.zeros([5, 8, 8])).shape  # 2 x 3 images, 1 pixel around each
        (19, 28, 1)
    """
    cells = unit_images(images, value_range)
    columns = math.ceil(math.sqrt(len(cells))) if columns is None else columns
    return _arranged(cells, integer(columns, "columns", "image_grid"))


def reconstruction_grid(
    x: Any, reconstructions: Any, columns: int, value_range: Range = None
) -> np.ndarray:
    """Arranges images in rows, each above the row of their reconstructions.

    Args:
        x: Images, as in `image_grid`.
        reconstructions: The same number of images, of the same size.
        columns: Number of images in a row.
        value_range: As in `image_grid`, found from x.

    Returns:
        An array of shape `(height, width, 1 or 3)` with values from 0 to 1.

    Raises:
        ValueError: If these are not images, or have different sizes.

    Example:
        >>> x = np.zeros([3, 8, 8])
        >>> reconstruction_grid(x, x, columns=3).shape
        (19, 28, 1)
    """
    range_ = _range(value_range, np.asarray(x))
    both = _alike(unit_images(x, range_), unit_images(reconstructions, range_))
    rows = [_whole_rows(cells, columns) for cells in both]
    cells = np.stack(rows, axis=1)
    return _arranged(cells.reshape(-1, *cells.shape[3:]), columns)


def latent_centers(vae: Any, x: Any, y: Any = None) -> np.ndarray:
    """The centers of the posteriors q(z | x).

    Args:
        vae: A `tv.VAE`.
        x: Inputs of shape `(n, ...)`.
        y: Conditions, if the model is conditional.

    Returns:
        An array of shape `(n, *event_shape)`.

    Example:
        >>> encoder = keras.Sequential([
        ...     keras.Input((3,)), keras.layers.Dense(4), tv.IndependentNormal(2)])
        >>> decoder = keras.Sequential([
        ...     keras.Input((2,)), keras.layers.Dense(3), tv.IndependentBernoulli(3)])
        >>> vae = tv.VAE(encoder, decoder, tv.StandardNormal(2))
        >>> latent_centers(vae, np.eye(3)).shape
        (3, 2)
    """
    x, y = as_arrays(x, y, "latent_centers")
    y = y if vae.conditional else None
    return np.asarray(mean_or_center(vae.encode(x, y)))


def observed(vae: Any, x: Any) -> np.ndarray:
    """The part of x that the decoder models, with NaN for missing entries.

    Args:
        vae: A `tv.VAE`.
        x: Inputs of shape `(n, ...)`.

    Returns:
        An array.

    Example:
        >>> vae = tv.VAE(tv.IndependentNormal(2), tv.IndependentNormal(4),
        ...              tv.StandardNormal(2), missing=-1)
        >>> observed(vae, np.array([[0.0, -1.0, 1.0, 0.0]]))
        array([[ 0., nan, 1., 0.]])
    """
    values = np.asarray(x if vae.target is None else x[vae.target])
    if vae.missing in (None, NAN):
        return values
    return np.where(is_missing(values, vae.missing), np.nan, values)


def is_image(event_shape: Any) -> bool:
    """Whether a shape is that of an image: `(h, w)`, `(h, w, 1)` or `(h, w, 3)`.

    Args:
        event_shape: Shape of one example.

    Returns:
        True for those.

    Example:
        >>> is_image((8, 8)), is_image((8, 8, 3)), is_image((8, 8, 2)), is_image((8,))
        (True, True, False, False)
    """
    shape = tuple(event_shape)
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))


def unit_images(images: Any, value_range: Range = None) -> np.ndarray:
    """Images with values from 0 to 1 and a last axis of 1 or 3 colours.

    Args:
        images: As in `image_grid`; entries that are NaN become grey.
        value_range: As in `image_grid`.

    Returns:
        An array of shape `(n, h, w, 1 or 3)`.

    Raises:
        ValueError: If these are not images.

    Example:
        >>> unit_images([[[0, 51, 255]]])[0, 0, :, 0]
        array([0. , 0.2, 1. ], dtype=float32)
    """
    images = np.asarray(images)
    if not is_image(images.shape[1:]) or not images.size:
        raise ValueError(
            "A picture expects images of shape (n, h, w), (n, h, w, 1) or (n, h, w, 3)."
            f" Received: an array of shape {images.shape}. Reshape the array, such as "
            "the result of `vae.reconstruct(x)`, and plot it with `matplotlib`."
        )
    images = images.astype("float32")
    low, high = _range(value_range, images)
    unit = np.clip((images - low) / (high - low), 0, 1)
    unit = np.where(np.isnan(unit), np.float32(_MISSING), unit)
    return unit[..., None] if unit.ndim == 3 else unit


def _range(given: Range, data: Any) -> tuple[float, float]:
    """The values drawn black and white."""
    if given is not None:
        return interval(*given, caller="value_range")
    data = np.asarray(data, "float32")
    data = data[np.isfinite(data)]
    low, high = (data.min(), data.max()) if data.size else (0.0, 1.0)
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return float(low), float(high if high > low else low + 1)


def _alike(*images: np.ndarray) -> list[np.ndarray]:
    """Arrays of images, broadcast to the largest number of colours."""
    if len({part.shape[-3:-1] for part in images}) > 1:
        raise ValueError(
            "A picture of inputs and reconstructions expects both to have one size. "
            f"Received: images of {images[0].shape[-3:-1]} and of "
            f"{images[1].shape[-3:-1]} pixels. Draw each in its own figure."
        )
    colours = max(part.shape[-1] for part in images)
    return [np.broadcast_to(part, (*part.shape[:-1], colours)) for part in images]


def _whole_rows(cells: np.ndarray, columns: int) -> np.ndarray:
    """Images in rows, the last row padded with white images."""
    missing = -len(cells) % columns
    blank = np.ones((missing, *cells.shape[1:]), cells.dtype)
    return np.concatenate([cells, blank]).reshape(-1, columns, *cells.shape[1:])


def _gap(height: int, width: int) -> int:
    """Pixels between two images."""
    return max(1, round(max(height, width) / 24))


def _arranged(cells: np.ndarray, columns: int) -> np.ndarray:
    rows = _whole_rows(cells, columns)
    gap = _gap(*cells.shape[1:3])
    framed = np.pad(
        rows, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=1
    )
    count, _, height, width, colours = framed.shape
    grid = framed.swapaxes(1, 2).reshape(count * height, columns * width, colours)
    return np.pad(grid, ((gap, 0), (gap, 0), (0, 0)), constant_values=1)


def _drawn(
    grids: list[np.ndarray],
    row_labels: Sequence[str],
    columns: int,
    column_labels: Sequence[str] = (),
    titles: Sequence[str] | None = None,
    xlabel: str = "",
) -> "Figure":
    """Grids of equal size below each other, with labels of rows and columns."""
    rows = len(row_labels)
    height, width = grids[0].shape[:2]
    size = min(_CELL * rows / height, _WIDEST / width)
    extra = 0.3 * (titles is not None) + 0.3 * bool(column_labels) + 0.2 * bool(xlabel)
    margin = 0.1 + 0.11 * max(map(len, row_labels))
    wide = max(margin + size * width, 0.1 * max(map(len, titles or [""])))
    figure = new_figure(wide, len(grids) * (0.1 + extra + size * height))
    subplots = figure.subplots(len(grids), squeeze=False)[:, 0]
    for i, (axes, grid) in enumerate(zip(subplots, grids, strict=True)):
        pixels = grid if grid.shape[-1] == 3 else grid[..., 0]
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labelsize="medium")
        axes.set_xlabel(xlabel)
        axes.set_yticks(_middles(height, rows) if any(row_labels) else [])
        if any(row_labels):
            axes.set_yticklabels(row_labels)
        axes.set_xticks(_middles(width, columns) if column_labels else [])
        if column_labels:
            axes.set_xticklabels(column_labels)
        if titles is not None:
            axes.set_title(titles[i], fontsize="medium")
    return figure


def _middles(length: int, count: int) -> np.ndarray:
    """Pixel positions of the middles of `count` images in a row."""
    return (np.arange(count) + 0.5) * length / count - 0.5


def _checked_dimensions(dimensions: Any, event_shape: tuple[int, ...]) -> list[int]:
    chosen = [0, 1] if dimensions is None else list(dimensions)
    size = event_shape[0] if len(event_shape) == 1 else 0
    if len(chosen) != 2 or not all(0 <= i < size for i in chosen):
        raise ValueError(
            "`plot_latents` expects two dimensions of latents that are vectors. "
            f"Received: latents of shape {event_shape}, dimensions={chosen}. Give two "
            "coordinates, or draw a histogram if there is only one."
        )
    return chosen


def _on_page(z: Any) -> tuple[Any, Any]:
    """Two coordinates, or longitude and latitude of directions of any length."""
    if z.shape[1] == 2:
        return z[:, 0], z[:, 1]
    return np.arctan2(z[:, 1], z[:, 0]), np.arctan2(z[:, 2], np.hypot(z[:, 0], z[:, 1]))


def _scatter(figure: Any, axes: Any, z: Any, labels: Any) -> None:
    """Points with a legend of classes, or a colour bar for many numbers."""
    across, up = _on_page(z)
    size = min(20.0, max(3.0, 10_000 / len(across)))
    style: dict[str, Any] = {
        "s": size,
        "linewidths": 0,
        "alpha": 0.8,
        "rasterized": True,
    }
    if labels is None:
        axes.scatter(across, up, color=BLUE, **style)
        return
    labels = np.asarray(labels)
    if labels.shape != across.shape:
        raise ValueError(
            f"`plot_latents` expects labels of shape {across.shape}, one for each "
            f"example. Received: labels of shape {labels.shape}. Give the class of "
            "each, such as `np.argmax(one_hot, axis=1)`."
        )
    classes, inverse = np.unique(labels, return_inverse=True)
    if len(classes) > _MOST_CLASSES and labels.dtype.kind in "biuf":
        points = axes.scatter(across, up, c=labels, cmap="viridis", **style)
        figure.colorbar(points, ax=axes, shrink=0.8, label="label")
        return
    numbers = inverse % _MOST_CLASSES
    # One scatter for each marker, so that the last class does not cover the others.
    for i, marker in enumerate(_MARKERS):
        here = numbers // len(CLASSES) == i
        if here.any():
            colours = np.take(CLASSES, numbers[here] % len(CLASSES))
            axes.scatter(across[here], up[here], c=colours, marker=marker, **style)
    entry: dict[str, Any] = {"linestyle": "", "markersize": 6}
    for i, name in enumerate(map(str, classes)):
        mark, colour = divmod(i % _MOST_CLASSES, len(CLASSES))
        look = {"marker": _MARKERS[mark], "color": CLASSES[colour]}
        axes.plot([], [], label=name, **look, **entry)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    if len(classes) > _MOST_CLASSES:
        return
    # Imported here, since only figures need it.
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=3, foreground="white")]
    written: dict[str, Any] = {"ha": "center", "va": "center", "weight": "bold"}
    for i, name in enumerate(map(str, classes)):
        # The middle in z: on the map, a class may lie at both ends.
        middle = np.median(z[inverse == i], axis=0, keepdims=True)
        axes.text(*np.ravel(_on_page(middle)), name, path_effects=halo, **written)
