"""TensorFlow and Keras, set up once for training: on the CPU, reproducible, on few threads.

Import ``tf`` and ``keras`` from here, never directly: the settings must be made before
TensorFlow starts.
"""

import os

# Models this small are trained fastest where their data are, and there the same seed gives the
# same weights, to the last bit, in every run on one kind of machine.
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import tensorflow as tf

THREADS = 2

tf.config.threading.set_intra_op_parallelism_threads(THREADS)
tf.config.threading.set_inter_op_parallelism_threads(1)

__all__ = ["THREADS", "keras", "seed_all", "tf"]


def seed_all(seed: int) -> None:
    """Seeds every source of randomness (Python, NumPy, TensorFlow) for what follows."""
    keras.utils.set_random_seed(seed)
