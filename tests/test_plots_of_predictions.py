import io

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

import tfp_vae as tv
from tfp_vae.plots import plot_calibration, plot_predictive

tfd = tfp.distributions


def test_bands_are_the_quantiles_over_sorted_inputs():
    x = np.array([2.0, 0.0, 1.0])
    p = tv.IndependentNormal(1)(np.stack([x, 0 * x], 1).astype("float32"))
    figure = plot_predictive(x[:, None], p, y=3 * x, levels=(0.5, 0.9))
    axes = figure.axes[0]
    scale = float(p.stddev()[0, 0])
    wide, narrow, points = axes.collections
    for band, level in ((wide, 0.9), (narrow, 0.5)):
        corners = band.get_paths()[0].vertices
        half = stats.norm.ppf((1 + level) / 2) * scale
        for at in (0.0, 1.0, 2.0):
            ends = corners[corners[:, 0] == at, 1]
            np.testing.assert_allclose(
                [ends.min(), ends.max()], [at - half, at + half], rtol=1e-4
            )
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[0, 0], [1, 1], [2, 2]])
    np.testing.assert_allclose(points.get_offsets(), [[0, 0], [1, 3], [2, 6]])
    assert axes.get_xlabel() == "x"
    # The legend covers no data.
    figure.savefig(io.BytesIO())
    assert axes.get_legend().get_window_extent().y0 >= axes.get_window_extent().y1


def test_the_calibration_of_numbers_is_drawn():
    rng = np.random.default_rng(0)
    y = rng.normal(size=3000)
    figure = plot_calibration(tfd.Normal(np.zeros(3000), 0.5), y, bins=10)
    left, right = figure.axes
    observed = left.lines[1].get_xydata()
    want = stats.norm.cdf(0.5 * stats.norm.ppf(observed[:, 0]))
    np.testing.assert_allclose(observed[:, 1], want, atol=0.04)
    heights = [bar.get_height() for bar in right.patches[-10:]]
    assert np.mean(heights) == pytest.approx(1.0)
    assert heights[0] > 2 * heights[5]


def test_the_calibration_of_classes_is_drawn():
    probs = np.tile([[0.9, 0.1], [0.3, 0.7]], (50, 1))
    y = np.tile([0, 1], 50)
    figure = plot_calibration(tfd.Categorical(probs=probs), y, bins=5)
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[1].get_xydata(), [[0.7, 1], [0.9, 1]])
    assert [bar.get_height() for bar in right.patches] == [50, 50]


def test_mistakes_are_explained():
    p = tfd.Normal(tf.zeros(3), 1.0)
    with pytest.raises(ValueError, match=r"inputs of shape.*Received.*Draw one"):
        plot_predictive(np.zeros((3, 2)), p)
    with pytest.raises(ValueError, match=r"inputs of shape.*Received.*Draw one"):
        plot_predictive(np.zeros(4), p)
    with pytest.raises(ValueError, match=r"between 0 and 1.*Received.*Give"):
        plot_predictive(np.zeros(3), p, levels=[0.5, 90])
    with pytest.raises(ValueError, match=r"expects values.*Received.*Reshape"):
        plot_predictive(np.zeros(3), p, y=np.zeros(4))
    with pytest.raises(ValueError, match=r"distribution for each.*Received.*Give"):
        plot_calibration(np.zeros(3), np.zeros(3))
