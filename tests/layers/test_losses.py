"""Cross-entropies against sums written out, and where a class has no probability."""

import numpy as np

from saboc_jax.layers.losses import cross_entropy, label_cross_entropy

LOGITS = np.array([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]], np.float32)


def test_both_are_the_sum_written_out():
    log_p = np.log(np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True))
    targets = np.array([[0.2, 0.5, 0.3], [0.0, 1.0, 0.0]], np.float32)
    np.testing.assert_allclose(
        cross_entropy(LOGITS, targets), -(targets * log_p).sum(-1), rtol=1e-6
    )
    labels = np.array([2, 1])
    np.testing.assert_allclose(
        label_cross_entropy(LOGITS, labels), -log_p[np.arange(2), labels], rtol=1e-6
    )


def test_a_class_without_probability_does_not_reach_the_label():
    logits = np.array([[0.0, -np.inf]], np.float32)
    np.testing.assert_array_equal(label_cross_entropy(logits, np.array([0])), [0])
