"""What the figures show is what the model answers, in its place."""

import io
import sys

import keras
import matplotlib.colors
import models
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import vaes

import tfp_vae as tv
from tfp_vae.plots import (
    image_grid,
    observed,
    plot_interpolations,
    plot_kl_per_dimension,
    plot_latents,
    plot_reconstructions,
    plot_samples,
    plot_traversals,
    reconstruction_grid,
    unit_images,
)

tfd = tfp.distributions


def cell(grid, row, column, shape=(8, 8), gap=1):
    """The pixels of one image of a grid."""
    top = gap + row * (shape[0] + gap)
    left = gap + column * (shape[1] + gap)
    return np.asarray(grid)[top : top + shape[0], left : left + shape[1]]


def shown(figure, panel=0):
    return figure.axes[panel].images[0].get_array()


def texts(labels):
    return [label.get_text() for label in labels]


def saved(figure):
    """Draws the figure, and checks that all of it is on the page."""
    assert figure.canvas.manager is None  # Not pyplot's: nothing shows or keeps it.
    figure.savefig(io.BytesIO())
    drawn, page = figure.get_tightbbox(), figure.bbox_inches
    assert min(*drawn.min, *(page.max - drawn.max)) > -0.01


def tabular(posterior=tv.IndependentNormal, size=2, prior=None):
    """A VAE of four numbers."""
    q = [keras.Input((4,)), keras.layers.Dense(posterior.params_size(size))]
    p = [keras.Input((size,)), keras.layers.Dense(8), tv.IndependentNormal(4)]
    prior = tv.StandardNormal(size) if prior is None else prior
    return tv.VAE(keras.Sequential([*q, posterior(size)]), keras.Sequential(p), prior)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (5, 9), (4, 6, 3), (40, 50)])
def test_a_grid_holds_every_image_in_order_on_white(shape, rng):
    images = rng.uniform(0.0, 0.5, (5, *shape)).astype("float32")
    grid = image_grid(images)
    gap = 1 if max(shape) < 36 else 2
    for i in range(5):
        pixels = cell(grid, i // 3, i % 3, shape[:2], gap)
        np.testing.assert_array_equal(np.squeeze(pixels), np.squeeze(images[i]))
    assert np.count_nonzero(grid < 1) == images.size


def test_a_grid_has_the_columns_asked_for():
    images = np.zeros([6, 8, 8])
    assert image_grid(images, columns=6).shape == (10, 55, 1)
    with pytest.raises(ValueError, match="expects `columns` to be an integer of at"):
        image_grid(images, columns=0)


@pytest.mark.parametrize(
    ("values", "value_range", "expected"),
    [
        ([0.2, 0.6, 0.3, 0.4], None, [0.2, 0.6, 0.3, 0.4]),
        ([0, 51, 102, 255], None, [0.0, 0.2, 0.4, 1.0]),
        ([-1.0, 0.0, 1.0, 1.0], None, [0.0, 0.5, 1.0, 1.0]),
        ([-1.0, 0.0, 1.0, 3.0], (0, 2), [0.0, 0.0, 0.5, 1.0]),
        ([7.0, 7.0, 7.0, 7.0], None, [0.0, 0.0, 0.0, 0.0]),
        ([0.0, np.nan, 10.0, 5.0], None, [0.0, 0.5, 1.0, 0.5]),
        ([np.nan, np.nan, np.nan, np.nan], None, [0.5, 0.5, 0.5, 0.5]),
        ([True, False, True, True], None, [1.0, 0.0, 1.0, 1.0]),
    ],
)
def test_values_are_scaled_from_black_to_white(values, value_range, expected):
    images = np.array(values).reshape(1, 2, 2)
    np.testing.assert_allclose(unit_images(images, value_range).ravel(), expected)


def test_a_range_that_is_none_is_an_error():
    with pytest.raises(ValueError, match="`value_range` expects two finite numbers"):
        image_grid(np.zeros([1, 2, 2]), value_range=(1, 0))


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 4, 2), (5, 2, 4, 4, 1), (0, 4, 4)])
def test_what_is_no_image_is_an_error(shape):
    with pytest.raises(ValueError, match=r"shape \(n, h, w\), .*Received: an array of"):
        image_grid(np.zeros(shape))


def test_a_vae_of_numbers_has_no_pictures(rng):
    with pytest.raises(ValueError, match=r"Received: an array of shape \(5, 4\)"):
        plot_reconstructions(tabular(), rng.normal(size=(5, 4)))


def test_grey_images_and_their_colours_stand_together():
    grid = reconstruction_grid(np.zeros([2, 4, 4]), np.zeros([2, 4, 4, 3]), 2)
    assert grid.shape == (11, 11, 3)


def test_images_of_two_sizes_are_an_error():
    with pytest.raises(ValueError, match=r"have one size. Received: .*\(4, 4\) and of"):
        reconstruction_grid(np.zeros([2, 4, 4]), np.zeros([2, 8, 8]), 2)


@pytest.mark.parametrize("kind", vaes.KINDS)
def test_reconstructions_are_below_what_they_reconstruct(kind):
    vae, (x, y) = vaes.KINDS[kind](), vaes.inputs(kind, 6)
    figure = plot_reconstructions(vae, x, y, columns=4)
    assert texts(figure.axes[0].get_yticklabels()) == ["x", "reconstruction"] * 2
    images, answers = observed(vae, x)[..., 0], vae.reconstruct(x, y)[..., 0]
    images = np.where(np.isnan(images), 0.5, images)
    for i in range(6):
        row, column = 2 * (i // 4), i % 4
        np.testing.assert_array_equal(cell(shown(figure), row, column), images[i])
        below = cell(shown(figure), row + 1, column)
        np.testing.assert_allclose(below, answers[i], atol=1e-6)
    saved(figure)


@pytest.mark.parametrize("kind", ["plain", "conditional"])
def test_of_a_dataset_the_first_batch_is_drawn(kind):
    vae, (x, y) = vaes.KINDS[kind](), vaes.inputs(kind, 6)
    dataset = tf.data.Dataset.from_tensor_slices(x if y is None else (x, y)).batch(4)
    figure = plot_reconstructions(vae, dataset)
    want = plot_reconstructions(vae, x[:4], None if y is None else y[:4])
    np.testing.assert_allclose(shown(figure), shown(want), atol=1e-6)


def test_missing_entries_that_a_number_marks_are_grey():
    x = models.digits(2)
    x[:, 0] = -1.0
    vae = vaes.vae(missing=-1.0)
    grid = shown(plot_reconstructions(vae, x))
    np.testing.assert_array_equal(cell(grid, 0, 0)[0], np.full(8, 0.5))
    np.testing.assert_array_equal(cell(grid, 0, 1)[1:], x[1, 1:, :, 0])


@pytest.mark.parametrize("kind", vaes.KINDS)
def test_samples_are_what_the_model_generates(kind):
    vae, (_, y) = vaes.KINDS[kind](), vaes.inputs(kind, 5)
    figure = plot_samples(vae, 5, y=y, seed=3)
    for i, image in enumerate(vae.generate(5, y=y, seed=3)[..., 0]):
        np.testing.assert_array_equal(cell(shown(figure), i // 3, i % 3), image)
    saved(figure)


def test_a_temperature_is_in_the_title_which_fits_on_the_page():
    figure = plot_samples(vaes.vae(), 1, seed=3, temperature=0.5, columns=10)
    title = figure.axes[0].get_title()
    assert title == "means of p(x|z), z drawn from the prior, temperature 0.5"
    saved(figure)


@pytest.mark.parametrize("kind", vaes.KINDS)
def test_traversals_are_rows_of_dimensions(kind):
    vae, (x, y) = vaes.KINDS[kind](), vaes.inputs(kind, 2)
    figure = plot_traversals(vae, x, y=y)
    moved = vae.traverse(x, y=y)[..., 0]
    for panel in range(2):
        assert texts(figure.axes[panel].get_yticklabels()) == ["z[0]", "z[1]", "z[2]"]
        for row, column in np.ndindex(3, 7):
            there = cell(shown(figure, panel), row, column)
            np.testing.assert_array_equal(there, moved[panel, row, column])
    end = "0.9" if kind == "spherical" else "3"
    assert figure.axes[0].get_xlabel() == "value of the coordinate"
    values = texts(figure.axes[0].get_xticklabels())
    assert (values[0], values[3], values[-1]) == (f"-{end}", "0", end)
    saved(figure)


def test_traversals_of_the_prior_have_the_dimensions_and_values_asked_for():
    vae = vaes.vae()
    figure = plot_traversals(vae, dimensions=np.array([2, 0]), values=[-1.5, 0.0])
    assert len(figure.axes) == 1
    assert texts(figure.axes[0].get_yticklabels()) == ["z[2]", "z[0]"]
    assert texts(figure.axes[0].get_xticklabels()) == ["-1.5", "0"]
    z = np.array([[0.0, 0.0, -1.5]], "float32")
    np.testing.assert_allclose(
        cell(shown(figure), 0, 0), vae.decode(z).mean()[0, ..., 0], atol=1e-6
    )


@pytest.mark.parametrize("kind", ["plain", "conditional", "spherical", "dictionary"])
def test_interpolations_lie_between_the_images(kind):
    vae, (x, y) = vaes.KINDS[kind](), vaes.inputs(kind, 4)
    start = tf.nest.map_structure(lambda array: array[:1], x)
    end = tf.nest.map_structure(lambda array: array[1:2], x)
    y = None if y is None else y[:1]
    figure = plot_interpolations(vae, start, end, num_steps=3, y=y)
    labels = ["start", "0", "0.5", "1", "end"]
    assert texts(figure.axes[0].get_xticklabels()) == labels
    assert figure.axes[0].get_xlabel() == "t"
    between = vae.interpolate(start, end, 3, y=y)[0]
    row = [observed(vae, start)[0], *between, observed(vae, end)[0]]
    for i, image in enumerate(row):
        np.testing.assert_allclose(cell(shown(figure), 0, i), image[..., 0], atol=1e-6)
    saved(figure)


@pytest.mark.parametrize("labels", [[3, 1, 1, 3, 1], ["d", "b", "b", "d", "b"]])
def test_latents_are_points_in_the_colours_of_their_classes(labels, rng):
    vae, x = tabular(size=3), rng.normal(size=(5, 4)).astype("float32")
    figure = plot_latents(vae, x, labels, dimensions=(2, 0))
    axes = figure.axes[0]
    points = axes.collections[0]
    mean = vae.encode(x).mean().numpy()
    np.testing.assert_allclose(points.get_offsets(), mean[:, [2, 0]], atol=1e-6)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("z[2]", "z[0]")
    saved(figure)
    colours = points.get_facecolors()[:, :3]
    legend = axes.get_legend()
    assert texts(legend.get_texts()) == sorted({str(label) for label in labels})
    assert len(np.unique(colours, axis=0)) == 2
    handles = [handle.get_color() for handle in legend.legend_handles]
    for i, label in enumerate(labels):
        which = texts(legend.get_texts()).index(str(label))
        expected = matplotlib.colors.to_rgb(handles[which])
        np.testing.assert_allclose(colours[i], expected, atol=1e-6)


def test_each_class_has_its_colour_and_shape_and_its_name(rng):
    vae, x = tabular(), rng.normal(size=(40, 4)).astype("float32")
    labels = np.arange(40) % 20
    figure = plot_latents(vae, x, labels)
    saved(figure)
    axes = figure.axes[0]
    first, second = axes.collections
    for points in (first, second):
        assert len(np.unique(points.get_facecolors(), axis=0)) == 10
    shapes = [len(points.get_paths()[0].vertices) for points in (first, second)]
    assert shapes[0] != shapes[1]  # circles and triangles
    entries = [
        (handle.get_marker(), handle.get_color())
        for handle in axes.get_legend().legend_handles
    ]
    assert len(set(entries)) == 20
    assert texts(axes.texts) == [str(i) for i in range(20)]
    mean = vae.encode(x).mean().numpy()
    for i, text in enumerate(axes.texts):
        middle = np.median(mean[labels == i], axis=0)
        np.testing.assert_allclose(text.get_position(), middle, atol=1e-6)


def test_many_names_are_in_the_legend_alone(rng):
    vae, x = tabular(), rng.normal(size=(30, 4)).astype("float32")
    figure = plot_latents(vae, x, [f"name {i}" for i in range(30)])
    assert len(texts(figure.axes[0].get_legend().get_texts())) == 30
    assert texts(figure.axes[0].texts) == []


def test_labels_of_many_values_are_a_scale(rng):
    vae, x = tabular(), rng.normal(size=(30, 4)).astype("float32")
    figure = plot_latents(vae, x, x[:, 0])
    assert figure.axes[0].get_legend() is None
    assert len(figure.axes) == 2
    assert figure.axes[1].get_ylabel() == "label"
    np.testing.assert_array_equal(figure.axes[0].collections[0].get_array(), x[:, 0])
    saved(figure)


def test_latents_are_encoded_in_pieces_of_every_example(rng):
    vae, x = tabular(), rng.normal(size=(1500, 4)).astype("float32")
    points = plot_latents(vae, tf.data.Dataset.from_tensor_slices(x).batch(64))
    np.testing.assert_allclose(
        points.axes[0].collections[0].get_offsets(), vae.encode(x).mean(), atol=1e-6
    )


def test_the_sphere_is_a_map(rng):
    vae = tabular(tv.PowerSpherical, 3, tv.SphericalUniform(3))
    x = rng.normal(size=(50, 4)).astype("float32")
    figure = plot_latents(vae, x)
    longitude, latitude = figure.axes[0].collections[0].get_offsets().T
    assert figure.axes[0].name == "mollweide"
    assert figure.axes[0].get_xlabel() == "longitude atan2(z[1], z[0])"
    assert figure.axes[0].get_ylabel() == "latitude asin(z[2])"
    directions = [
        np.cos(latitude) * np.cos(longitude),
        np.cos(latitude) * np.sin(longitude),
        np.sin(latitude),
    ]
    mode = vae.encode(x).mode().numpy()
    np.testing.assert_allclose(np.stack(directions, axis=1), mode, atol=1e-5)
    saved(figure)


def test_a_class_at_both_ends_of_the_map_is_named_at_an_end(rng, monkeypatch):
    vae = tabular(tv.PowerSpherical, 3, tv.SphericalUniform(3))
    longitude = np.pi + rng.uniform(-0.3, 0.3, 50)
    z = np.stack([np.cos(longitude), np.sin(longitude), np.zeros(50)], axis=1)
    monkeypatch.setattr("tfp_vae.plots.vae.latent_centers", lambda *given: z)
    figure = plot_latents(vae, np.zeros([50, 4], "float32"), ["a"] * 50)
    across, up = figure.axes[0].texts[0].get_position()
    assert abs(across) > np.pi - 0.2
    assert up == pytest.approx(0, abs=1e-6)


def test_the_circle_is_a_circle(rng):
    vae = tabular(tv.PowerSpherical, 2, tv.SphericalUniform(2))
    figure = plot_latents(vae, rng.normal(size=(50, 4)).astype("float32"))
    axes = figure.axes[0]
    points = axes.collections[0].get_offsets()
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, atol=1e-5)
    outline = axes.lines[0].get_xydata()
    np.testing.assert_allclose(np.linalg.norm(outline, axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("plot", [plot_samples, plot_traversals])
def test_pictures_of_a_conditional_vae_need_y(plot):
    with pytest.raises(ValueError, match="condition"):
        plot(vaes.conditional())


def test_latents_of_a_conditional_vae_need_y():
    vae, (x, y) = vaes.conditional(), vaes.inputs("conditional", 6)
    points = plot_latents(vae, x, y=y).axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(points, vae.encode(x, y).mean()[:, :2], atol=1e-6)
    with pytest.raises(ValueError, match="expects the condition y"):
        plot_latents(vae, x)


@pytest.mark.parametrize("dimensions", [(0,), (0, 2), (-1, 0), (0, 1, 1)])
def test_dimensions_that_are_not_two_of_the_latents_are_an_error(dimensions):
    with pytest.raises(ValueError, match=r"two dimensions .*Received: .*shape \(2,\)"):
        plot_latents(tabular(), np.zeros([5, 4], "float32"), dimensions=dimensions)


def test_one_label_for_each_example_is_needed():
    with pytest.raises(ValueError, match=r"labels of shape \(5,\).*shape \(5, 2\)"):
        plot_latents(tabular(), np.zeros([5, 4], "float32"), labels=np.zeros([5, 2]))


@pytest.mark.parametrize("size", [3, 40])
def test_kl_per_dimension_is_sorted_and_in_nats(size, rng):
    vae, x = tabular(size=size), rng.normal(size=(9, 4)).astype("float32")
    figure = plot_kl_per_dimension(vae, x)
    axes = figure.axes[0]
    q = vae.encode(x)
    mean, stddev = q.mean().numpy(), q.stddev().numpy()
    kl = np.mean((mean**2 + stddev**2 - 1) / 2 - np.log(stddev), axis=0)
    heights = [bar.get_height() for bar in axes.patches]
    np.testing.assert_allclose(heights, np.sort(kl)[::-1], rtol=1e-4)
    assert f"= {kl.sum():.2f} nats" in axes.get_title()
    if size == 3:
        assert texts(axes.get_xticklabels()) == [str(i) for i in np.argsort(-kl)]
    saved(figure)


def test_the_title_of_one_bar_fits_on_the_page(rng):
    vae, x = tabular(size=1), rng.normal(size=(9, 4)).astype("float32")
    saved(plot_kl_per_dimension(vae, x))


def test_kl_per_dimension_of_a_conditional_prior():
    vae, (x, y) = vaes.conditional(), vaes.inputs("conditional", 6)
    heights = [
        bar.get_height() for bar in plot_kl_per_dimension(vae, x, y).axes[0].patches
    ]
    total = tfd.kl_divergence(vae.encode(x, y), vae.prior_distribution(y))
    np.testing.assert_allclose(sum(heights), np.mean(total), rtol=1e-5)


@pytest.mark.parametrize("kind", ["vamp", "spherical", "flow posterior and prior"])
def test_a_kl_that_does_not_factorise_has_no_bars(kind):
    with pytest.raises(ValueError, match="KL per dimension expects distributions that"):
        plot_kl_per_dimension(vaes.KINDS[kind](), models.digits(8))


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'expect matplotlib.*"tfp-vae\[examples\]"'):
        plot_samples(vaes.vae(), 1)
