"""The networks, with the scaling of their inputs inside.

All are made of standard Keras layers with fixed shapes, so that their graphs hold nothing but
plain operations, which any TensorFlow runs.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from training.runtime import keras, seed_all
from training.table import FEATURES, SEQUENCE, SEQUENCE_DAYS

RAMPS = 24


def quantile_ramps(values: NDArray[np.floating], ramps: int = RAMPS) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights of a layer that tells how far each feature has passed each of its quantiles.

    Output j of feature f climbs from 0 to 1 between two neighbouring quantiles of f, once it
    is clipped to [0, 1]. A network sees skewed features evenly that way, and no value, however
    extreme, leaves the range that it was trained on.

    Args:
        values: [n, features], of the training rows.
        ramps: how many per feature, at most: equal quantiles make one.

    Returns:
        kernel [features, outputs] and bias [outputs]: clip(x @ kernel + bias, 0, 1).
    """
    columns, kernel, bias = [], [], []
    for f in range(values.shape[1]):
        edges = np.unique(np.quantile(values[:, f], np.linspace(0, 1, ramps + 1)))
        for low, high in itertools.pairwise(edges):
            columns.append(f)
            kernel.append(1 / (high - low))
            bias.append(-low / (high - low))
    matrix = np.zeros((values.shape[1], len(columns)), dtype=np.float32)
    matrix[columns, np.arange(len(columns))] = kernel
    return matrix, np.array(bias, dtype=np.float32)


def dense(features: NDArray[np.float32], units: int = 64, dropout: float = 0.2) -> keras.Model:
    """Features [n, 10] to a logit [n, 1]: standardised, then one hidden layer. The fastest of all.

    Args:
        features: of the training rows, [n, 10]: the scaling is taken from them.
        units: of the hidden layer.
        dropout: share of the hidden units left out in each training step.
    """
    entry = keras.Input((len(FEATURES),), name="features", dtype="float32")
    x = _standardise(features)(entry)
    x = keras.layers.Dense(units, activation="relu", name="hidden")(x)
    x = keras.layers.Dropout(dropout, name="dropout")(x)
    return keras.Model(entry, keras.layers.Dense(1, name="logit")(x))


def dense_ramps(features: NDArray[np.float32], units: int = 64, dropout: float = 0.3) -> keras.Model:
    """As :func:`dense`, with quantile ramps in the place of standardised features.

    It costs twice as much and ranks rare outcomes better.
    """
    kernel, bias = quantile_ramps(features)
    entry = keras.Input((len(FEATURES),), name="features", dtype="float32")
    ramps = keras.layers.Dense(kernel.shape[1], trainable=False, name="ramps")
    x = keras.layers.ReLU(max_value=1.0, name="clip")(ramps(entry))
    ramps.set_weights([kernel, bias])
    x = keras.layers.Dense(units, activation="relu", name="hidden")(x)
    x = keras.layers.Dropout(dropout, name="dropout")(x)
    return keras.Model(entry, keras.layers.Dense(1, name="logit")(x))


def lstm(sequences: NDArray[np.float32], units: int = 32) -> keras.Model:
    """Sequences [n, 10, 5] to a logit [n, 1]: standardised, then an LSTM over the ten days.

    The steps are unrolled: a loop costs more than ten of them, most of all in small batches.

    Args:
        sequences: of the training rows, [n, 10, 5]: the scaling is taken from them.
        units: of the LSTM.
    """
    entry = keras.Input((SEQUENCE_DAYS, len(SEQUENCE)), name="sequence", dtype="float32")
    x = _standardise(sequences.reshape(-1, len(SEQUENCE)))(entry)
    x = keras.layers.LSTM(units, unroll=True, name="days")(x)
    return keras.Model(entry, keras.layers.Dense(1, name="logit")(x))


@dataclass(frozen=True)
class Schedule:
    """How a network is fitted: AdamW, its rate falling along a cosine to 0 after the last epoch.

    The weights of the epoch with the lowest validation log-loss are kept, and fitting ends
    early after `patience` epochs without a lower one.
    """

    epochs: int
    rate: float
    decay: float = 0.0
    batch: int = 512
    patience: int = 6


def fit(
    network: keras.Model,
    schedule: Schedule,
    train: tuple[NDArray[np.float32], NDArray[np.int8]],
    validate: tuple[NDArray[np.float32], NDArray[np.int8]],
    seed: int,
) -> int:
    """Fits a network that answers logits to inputs and outcomes (0 or 1, [n]); returns the epochs it took."""
    seed_all(seed)
    steps = -(-len(train[1]) // schedule.batch) * schedule.epochs
    network.compile(
        optimizer=keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(schedule.rate, steps), weight_decay=schedule.decay
        ),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
    )
    history = network.fit(
        train[0],
        train[1].astype(np.float32)[:, None],
        validation_data=(validate[0], validate[1].astype(np.float32)[:, None]),
        batch_size=schedule.batch,
        epochs=schedule.epochs,
        verbose=0,
        callbacks=[
            keras.callbacks.EarlyStopping(
                monitor="val_loss", patience=schedule.patience, restore_best_weights=True, mode="min"
            )
        ],
    )
    return len(history.epoch)


def calibrate(network: keras.Model, inputs: NDArray[np.float32], happened: NDArray[np.int8]) -> float:
    """Sets right how sure a network is, on rows it was not fitted to (temperature scaling), within its last layer.

    The logit becomes slope * logit, which the last layer's own weights can say: the graph does
    not grow. A shift is not learned beside the slope. It would be that of the validation weeks
    against the year's rate, and seasons move that by more than a few weeks can tell.

    Returns:
        The slope; 1 where there was nothing to set right.
    """
    logits = answer(network, inputs).astype(np.float64)
    slope = float(LogisticRegression(C=np.inf, fit_intercept=False, max_iter=1000).fit(logits, happened).coef_[0, 0])
    last = network.get_layer("logit")
    last.set_weights([weights * slope for weights in last.get_weights()])
    return slope


def answer(network: keras.Model, inputs: NDArray[np.float32], batch: int = 8192) -> NDArray[np.float32]:
    """What a network answers to inputs [n, ...]: [n, 1], computed in batches."""
    parts = (network(inputs[i : i + batch], training=False) for i in range(0, len(inputs), batch))
    return np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])


def probabilities(network: keras.Model) -> keras.Model:
    """The network that answers probabilities [n, 1] instead of logits."""
    return keras.Model(network.input, keras.layers.Activation("sigmoid", name="probability")(network.output))


@keras.saving.register_keras_serializable("footfall")
class NearestCentroid(keras.layers.Layer):
    """Tells which centroid is nearest to each row: [n, d] to its index as float32 [n, 1].

    Args:
        centroids: [k, d].
    """

    def __init__(self, centroids: NDArray[np.floating], **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.centroids = np.asarray(centroids, dtype=np.float32)

    def call(self, rows: object) -> object:
        """Rows [n, d] to indices [n, 1]."""
        apart = keras.ops.expand_dims(rows, 1) - self.centroids
        nearest = keras.ops.argmin(keras.ops.sum(apart * apart, axis=-1), axis=-1)
        return keras.ops.expand_dims(keras.ops.cast(nearest, "float32"), -1)


def segmentation(features: NDArray[np.float32], centroids: NDArray[np.floating]) -> keras.Model:
    """Features [n, 10] to the index of the nearest centroid, [n, 1].

    Args:
        features: of the training rows, [n, 10]: the scaling is taken from them.
        centroids: [k, 10], of standardised features.
    """
    entry = keras.Input((len(FEATURES),), name="features", dtype="float32")
    x = _standardise(features)(entry)
    return keras.Model(entry, NearestCentroid(centroids, name="segment")(x))


def _standardise(rows: NDArray[np.float32]) -> keras.layers.Layer:
    """A layer that takes off the rows' mean and divides by their standard deviation."""
    rows = rows.astype(np.float64)
    return keras.layers.Normalization(
        mean=rows.mean(axis=0).tolist(), variance=rows.var(axis=0).tolist(), name="standardise"
    )
