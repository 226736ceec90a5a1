"""The networks: what is inside their graphs, against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans

from training import networks
from training.runtime import keras, seed_all


def test_ramps_climb_between_quantiles() -> None:
    random = np.random.default_rng(4)
    values = np.column_stack([random.gamma(1, 20, 3000), random.poisson(2, 3000)]).astype(np.float32)
    kernel, bias = networks.quantile_ramps(values, ramps=8)
    probe = np.column_stack([np.linspace(-10, 200, 500), np.linspace(-1, 20, 500)]).astype(np.float32)
    got = np.clip(probe @ kernel + bias, 0, 1)
    want = []
    for f in range(2):
        edges = np.unique(np.quantile(values[:, f], np.linspace(0, 1, 9)))
        want += [np.interp(probe[:, f], edges[i : i + 2], [0, 1]) for i in range(len(edges) - 1)]
    np.testing.assert_allclose(got, np.column_stack(want), atol=1e-5)


def test_a_feature_that_never_varies_has_no_ramp() -> None:
    kernel, bias = networks.quantile_ramps(np.column_stack([np.arange(100.0), np.full(100, 3.0)]))
    assert kernel.shape == (2, networks.RAMPS)
    assert not kernel[1].any()
    assert np.isfinite(bias).all()


@pytest.mark.parametrize("build", [networks.dense, networks.dense_ramps])
def test_dense_scales_inside(build: object) -> None:
    seed_all(1)
    features = np.random.default_rng(5).gamma(1, 50, (500, 10)).astype(np.float32)
    one = build(features)
    seed_all(1)
    # The same rows in other units give the same answers: no scaling is left to the caller.
    factor = np.array([0.5, 2, 4, 1, 1, 8, 16, 0.25, 1, 2], dtype=np.float32)
    other = build(features * factor)
    np.testing.assert_allclose(
        networks.answer(one, features), networks.answer(other, features * factor), rtol=1e-4, atol=1e-4
    )


def test_fitting_is_repeatable_and_learns() -> None:
    random = np.random.default_rng(6)
    features = random.normal(size=(600, 10)).astype(np.float32)
    happened = (features[:, 0] + 0.3 * random.normal(size=600) > 0).astype(np.int8)

    def fitted() -> np.ndarray:
        seed_all(2)
        network = networks.dense(features[:400])
        schedule = networks.Schedule(epochs=5, rate=1e-2, batch=64)
        networks.fit(network, schedule, (features[:400], happened[:400]), (features[400:], happened[400:]), seed=2)
        return networks.answer(network, features[400:], batch=77)[:, 0]

    first, second = fitted(), fitted()
    np.testing.assert_array_equal(first, second)
    assert ((first > 0) == happened[400:]).mean() > 0.85


def test_calibration_finds_how_sure_to_be() -> None:
    random = np.random.default_rng(7)
    entry = keras.Input((10,), name="features")
    network = keras.Model(entry, keras.layers.Dense(1, name="logit")(entry))
    kernel = np.zeros((10, 1), dtype=np.float32)
    kernel[0] = 3.0
    network.get_layer("logit").set_weights([kernel, np.array([0.6], dtype=np.float32)])
    features = random.normal(size=(20000, 10)).astype(np.float32)
    logits = features[:, 0] * 1.5 + 0.3  # the truth is half as sure
    happened = (random.random(20000) < 1 / (1 + np.exp(-logits))).astype(np.int8)
    slope = networks.calibrate(network, features, happened)
    assert slope == pytest.approx(0.5, abs=0.03)
    np.testing.assert_allclose(
        networks.answer(network, features[:100])[:, 0], slope * (features[:100, 0] * 3 + 0.6), rtol=1e-4, atol=1e-5
    )


def test_the_nearest_centroid_is_that_of_k_means() -> None:
    random = np.random.default_rng(8)
    features = (random.normal(size=(2000, 10)) * np.arange(1, 11) + 5).astype(np.float32)
    standard = (features - features.mean(axis=0, dtype=np.float64)) / features.std(axis=0, dtype=np.float64)
    found = KMeans(5, n_init=1, random_state=0).fit(standard)
    network = networks.segmentation(features, found.cluster_centers_)
    got = networks.answer(network, features)
    assert got.dtype == np.float32
    assert got.shape == (2000, 1)
    # In single precision a row half way between two may fall to the other.
    assert (got[:, 0] == found.labels_).mean() > 0.999
