"""A SavedModel that is trained on by its signatures, as a server does it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from training import networks, store
from training.runtime import seed_all, tf
from training.trainable import Trainable


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """A model that has learned nothing, with rows [400, 10] and outcomes [400] to learn from."""
    random = np.random.default_rng(3)
    features = random.gamma(1, 20, (400, 10)).astype(np.float32)
    seed_all(3)
    Trainable(networks.dense(features), "features").write(tmp_path / "model")
    return tmp_path / "model", features, (features[:, 0] > 15).astype(np.float32)


def step(model: object, features: np.ndarray, happened: np.ndarray, rate: float = 3e-3) -> float:
    """One step; returns the loss before it."""
    answer = model.signatures["train"](
        features=tf.constant(features), labels=tf.constant(happened), learning_rate=tf.constant(rate)
    )
    return float(answer["loss"])


def test_what_it_answers_is_what_the_network_does(tmp_path: Path) -> None:
    features = np.random.default_rng(4).gamma(1, 20, (100, 10)).astype(np.float32)
    logits = networks.dense_ramps(features)
    Trainable(logits, "features").write(tmp_path / "model")
    store.check_export(tmp_path / "model", networks.probabilities(logits), features)


def test_training_goes_on_where_it_was_saved(saved: tuple[Path, np.ndarray, np.ndarray]) -> None:
    folder, features, happened = saved
    model = tf.saved_model.load(str(folder))
    first = step(model, features, happened)
    for _ in range(150):
        step(model, features, happened)

    other = folder.parent / "other"
    (other / "variables").mkdir(parents=True)
    shutil.copy(folder / "saved_model.pb", other)
    model.signatures["save"](path=tf.constant(str(other / "variables" / "variables")))
    again = tf.saved_model.load(str(other))
    np.testing.assert_array_equal(
        store.score(other, features), model.signatures["serve"](features=tf.constant(features))["output_0"][:, 0]
    )
    # Adam's own variables came along: the next steps are the same ones.
    for _ in range(5):
        loss = step(model, features, happened)
        assert step(again, features, happened) == pytest.approx(loss, rel=1e-5)
    assert loss < 0.6 * first
    # The model that it began with is as it was.
    assert step(tf.saved_model.load(str(folder)), features, happened) == pytest.approx(first, rel=1e-6)


def test_no_step_at_rate_0_and_a_bounded_one_for_strange_rows(saved: tuple[Path, np.ndarray, np.ndarray]) -> None:
    folder, features, happened = saved
    before = store.score(folder, features)
    model = tf.saved_model.load(str(folder))
    step(model, features, happened, rate=0.0)
    serve = model.signatures["serve"]
    np.testing.assert_array_equal(serve(features=tf.constant(features))["output_0"][:, 0], before)
    step(model, features * 1e6, 1 - happened, rate=1e-3)
    assert np.isfinite(serve(features=tf.constant(features))["output_0"]).all()
