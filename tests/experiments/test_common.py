"""What the flags that binaries share stand for."""

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments.support import common
from saboc_jax.keys import MAX_SEED


def test_seeds_that_count_up_from_the_flag_end_at_the_last_that_jax_can_tell():
    with flagsaver.flagsaver(seed=MAX_SEED - 1):
        flags.FLAGS.mark_as_parsed()
        assert list(common.seeds(2)) == [MAX_SEED - 1, MAX_SEED]
        with pytest.raises(ValueError, match="with 3 seeds ends at 4294967296; allowed: at most"):
            common.seeds(3)
