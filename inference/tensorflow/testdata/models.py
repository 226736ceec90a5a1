"""Makes the SavedModels that the tests of this folder load, and what Keras says about their rows.

    python models.py OUT

writes OUT/<model>/{saved_model.pb,variables/} and OUT/<model>/cases.json: rows as they are fed and what Keras answers.
The weights are random but seeded: these models are made to be compared with, not to know anything.
"""

import json
import os
import pathlib
import sys

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

ROWS = 300
FEATURES, STEPS, COLUMNS = 10, 10, 5


def dense() -> keras.Model:
    """Ten features, one probability, with the normalisation inside."""
    x = keras.Input((FEATURES,), name="features")
    h = keras.layers.Normalization(mean=[3.0] * FEATURES, variance=[4.0] * FEATURES)(x)
    h = keras.layers.Dense(64, activation="relu")(h)
    return keras.Model(x, keras.layers.Dense(1, activation="sigmoid")(h))


def lstm() -> keras.Model:
    """Ten days of five values, one probability."""
    x = keras.Input((STEPS, COLUMNS), name="sequence")
    h = keras.layers.LSTM(64, return_sequences=True)(x)
    h = keras.layers.LSTM(32)(h)
    return keras.Model(x, keras.layers.Dense(1, activation="sigmoid")(h))


def both() -> keras.Model:
    """Features and sequence: the order of the inputs differs from that of their names."""
    s = keras.Input((STEPS, COLUMNS), name="sequence")
    f = keras.Input((FEATURES,), name="features")
    h = keras.layers.Concatenate()([keras.layers.GRU(8)(s), keras.layers.Dense(4)(f)])
    return keras.Model([s, f], keras.layers.Dense(1, activation="sigmoid")(h))


class Spoilt(keras.layers.Layer):
    """What is wrong with a version that should not replace another: of features and a probability."""

    def __init__(self, how: str):
        super().__init__()
        self.how = how

    def call(self, features, p):
        match self.how:
            case "odd":  # no number for those who came often
                return tf.where(features[:, 2:3] > 4.0, float("nan"), p)
            case "wrong":  # no number for those who came long ago, as training's bins tell
                return tf.where(features[:, :1] > 20.0, float("nan"), p)
            case "slow":
                x = tf.fill((384, 384), tf.reduce_mean(p))
                for _ in range(12):
                    x = tf.tanh(tf.matmul(x, x) / 384.0)
                return p + 0.0 * tf.reduce_mean(x)
            case "shifted":
                return tf.sigmoid(tf.math.log(p / (1.0 - p)) + 4.0)
        return p


def spoilt(model: keras.Model, how: str) -> keras.Model:
    """A model of features that is like another but for what is wrong with it."""
    return keras.Model(model.inputs, Spoilt(how)(model.inputs[0], model.outputs[0]))


class Nearest(keras.layers.Layer):
    """The number of the nearest of five centres, as the given type."""

    def __init__(self, dtype_out: str):
        super().__init__()
        self.dtype_out = dtype_out

    def build(self, shape):
        self.centres = self.add_weight(shape=(5, shape[-1]), initializer="random_normal")

    def call(self, x):
        distance = tf.reduce_sum(tf.square(x[:, None, :] - 3 - 3 * self.centres[None]), -1)
        return tf.cast(tf.argmin(distance, -1)[:, None], self.dtype_out)


def segment(dtype: str) -> keras.Model:
    x = keras.Input((FEATURES,), name="features")
    return keras.Model(x, Nearest(dtype)(x))


def plain(values: np.ndarray) -> list[float]:
    return [float(v) for v in np.asarray(values, np.float32).ravel()]


def main(out: pathlib.Path) -> None:
    keras.utils.set_random_seed(7)
    rng = np.random.default_rng(7)
    models = {
        "dense": dense(),
        "lstm": lstm(),
        "both": both(),
        "segment_int32": segment("int32"),
        "segment_int64": segment("int64"),
        "segment_float32": segment("float32"),
    }
    features = rng.gamma(2.0, 2.0, (ROWS, FEATURES)).astype(np.float32)
    sequence = rng.gamma(2.0, 2.0, (ROWS, STEPS, COLUMNS)).astype(np.float32)
    for name, model in models.items():
        fed = [{"features": features, "sequence": sequence}[t.name] for t in model.inputs]
        model.export(out / name, format="tf_saved_model", verbose=False)
        want = model.predict(fed if len(fed) > 1 else fed[0], batch_size=ROWS, verbose=0)
        (out / name / "cases.json").write_text(
            json.dumps({"rows": ROWS, "features": plain(features), "sequences": plain(sequence), "want": plain(want)})
        )
    for how in ("odd", "wrong", "slow", "shifted", "alike"):
        spoilt(models["dense"], how).export(out / f"dense_{how}", format="tf_saved_model", verbose=False)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
