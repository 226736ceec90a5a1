"""A SavedModel that can be trained on: beside ``serve`` it has the signatures ``train`` and ``save``.

A server without Python fine-tunes such a model by running them:

- ``train(<input> float32 [n, ...], labels float32 [n], learning_rate float32 [])`` takes one step of Adam on the mean
  log-loss of the rows, and answers that ``loss`` (float32 []), as it was before the step. Labels are 0 or 1. What a
  layer does only in training, such as leaving units out, it does not do here.
- ``save(path string [])`` writes all variables, also those of Adam, as the checkpoint ``path``, and answers ``path``.
  Its keys are those of the SavedModel: with the same ``saved_model.pb`` beside it, ``variables/variables`` as the path
  makes a SavedModel that any TensorFlow loads.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from training.runtime import keras, tf

# Of Adam, as everywhere.
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7
# Gradients of more than this norm are scaled down to it: one strange row spoils no model.
CLIP = 1.0
# The key under which a checkpoint describes the objects that its variables belong to.
OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"


class Trainable(tf.Module):
    """A network's variables with those of Adam, and the functions that use them.

    Args:
        logits: a network of one input [n, ...] that answers logits [n, 1].
        name: of the input, and of its key in the signatures.
    """

    def __init__(self, logits: keras.Model, name: str) -> None:
        super().__init__()
        self.variables_ = [v.value for v in logits.variables]
        self._trained = [v.value for v in logits.trainable_variables]
        self.first = [tf.Variable(tf.zeros_like(v)) for v in self._trained]
        self.second = [tf.Variable(tf.zeros_like(v)) for v in self._trained]
        self.steps = tf.Variable(0, dtype=tf.int64)
        self._network = lambda rows: logits(rows, training=False)
        self._input = tf.TensorSpec([None, *logits.input.shape[1:]], tf.float32, name=name)
        self._key = name

    def write(self, folder: Path) -> None:
        """Writes the SavedModel into a folder, which is made."""
        with TemporaryDirectory() as scratch:
            # What describes the objects is known once they are saved: a first time without it.
            tf.saved_model.save(self, scratch, signatures=self._signatures({}, b""))
            checkpoint = tf.train.load_checkpoint(str(Path(scratch) / "variables" / "variables"))
            shapes = checkpoint.get_variable_to_shape_map()
            keys = self._keys(set(shapes) - {OBJECTS})
            objects = checkpoint.get_tensor(OBJECTS)
        tf.saved_model.save(self, str(folder), signatures=self._signatures(keys, objects))

    def _keys(self, found: set[str]) -> dict[str, tf.Variable]:
        """The variables by their keys in the checkpoint.

        Raises:
            ValueError: if the checkpoint has others.
        """
        suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
        keys = {f"steps{suffix}": self.steps}
        for name in ("variables_", "first", "second"):
            keys |= {f"{name}/{i}{suffix}": v for i, v in enumerate(getattr(self, name))}
        # A variable that is in two lists is saved once, under either.
        if not found <= set(keys):
            raise ValueError(f"the checkpoint also has {sorted(found - set(keys))}")
        return {key: keys[key] for key in sorted(found)}

    def _signatures(self, keys: dict[str, tf.Variable], objects: bytes) -> dict[str, object]:
        row, name = self._input, self._key
        rows = tf.TensorSpec([None], tf.float32, name="labels")
        rate = tf.TensorSpec([], tf.float32, name="learning_rate")

        def serve(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"output_0": tf.sigmoid(self._network(inputs[name]))}

        def train(labels: tf.Tensor, learning_rate: tf.Tensor, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            with tf.GradientTape() as tape:
                logits = self._network(inputs[name])[:, 0]
                loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits))
            gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, self._trained), CLIP)
            step = tf.cast(self.steps.assign_add(1), tf.float32)
            rate = learning_rate * tf.sqrt(1 - BETA_2**step) / (1 - BETA_1**step)
            for v, g, m, s in zip(self._trained, gradients, self.first, self.second, strict=True):
                m.assign(BETA_1 * m + (1 - BETA_1) * g)
                s.assign(BETA_2 * s + (1 - BETA_2) * g * g)
                v.assign_sub(rate * m / (tf.sqrt(s) + EPSILON))
            return {"loss": loss}

        def save(path: tf.Tensor) -> dict[str, tf.Tensor]:
            values = [v.read_value() for v in keys.values()]
            written = tf.raw_ops.SaveV2(
                prefix=path,
                tensor_names=tf.constant([*keys, OBJECTS]),
                shape_and_slices=tf.constant([""] * (len(keys) + 1)),
                tensors=[*values, tf.constant(objects)],
            )
            with tf.control_dependencies([written]):
                return {"path": tf.identity(path)}

        served = tf.function(serve).get_concrete_function(**{name: row})
        return {
            "serve": served,
            "serving_default": served,
            "train": tf.function(train).get_concrete_function(labels=rows, learning_rate=rate, **{name: row}),
            "save": tf.function(save).get_concrete_function(tf.TensorSpec([], tf.string, name="path")),
        }
