"""Scorers of one observable and one metric."""

import jax
import numpy as np
import pytest

from saboc_jax.scorers.combine import score
from saboc_jax.scorers.single import check_choice, single_metric
from saboc_jax.types import Batch, Passes


def test_what_is_not_said_is_ordinary():
    scorer = single_metric(
        "size",
        lambda key, gates, batch: batch.images,
        lambda x, batch: (x.sum(), {"max": x.max()}),
        passes=Passes(1, 0),
    )
    assert (scorer.name, scorer.metrics, scorer.higher_is_better) == ("size", ("size",), (True,))
    assert (scorer.needs, scorer.options, scorer.parts) == (frozenset({"images"}), {}, ())
    assert not scorer.measured
    batch = Batch(np.arange(4.0), labels=None)
    scores, diagnostics = score(scorer, jax.random.key(0), None, batch)
    np.testing.assert_array_equal(scores, [6])
    assert diagnostics == {"max": 3}
    with pytest.raises(ValueError, match=r"needs the batch fields \['images'\]"):
        score(scorer, jax.random.key(0), None, Batch(None, None))


def test_what_is_said_is_kept_and_labels_are_seen_without_images():
    scorer = single_metric(
        "labels",
        lambda key, gates, batch: None,
        lambda _, batch: (batch.labels.sum() * (batch.images is None), {}),
        passes=Passes(0, 0),
        needs=("images", "labels"),
        options={"power": 1},
        metric="sum",
        higher_is_better=False,
        measured=True,
    )
    assert (scorer.metrics, scorer.higher_is_better) == (("sum",), (False,))
    assert (scorer.options, scorer.measured) == ({"power": 1}, True)
    batch = Batch(np.arange(2.0), np.array([1, 2]))
    assert score(scorer, jax.random.key(0), None, batch)[0] == 3


def test_a_word_that_is_not_allowed_is_named():
    assert check_choice("variant", "log", ("log", "plain")) == "log"
    with pytest.raises(ValueError, match=r"variant='fast'; allowed: \('log', 'plain'\)"):
        check_choice("variant", "fast", ("log", "plain"))
