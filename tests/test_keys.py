"""Keys by purpose: distinct bits, whole names, seeds that JAX can tell apart."""

import itertools

import jax
import numpy as np
import pytest

from saboc_jax import keys
from saboc_jax.keys import MAX_SEED, Purpose, key_for, key_numbered, repeat_keys, root_key


def bits(key) -> tuple[int, ...]:
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_no_two_purposes_share_bits():
    key = root_key(0)
    assert len({bits(key_for(key, purpose)) for purpose in Purpose}) == len(Purpose)


def test_whole_names_are_hashed():
    names = ["test_images", "test_labels", "testing", "test"]
    hashes = [keys._hash(name) for name in names]
    assert all(a != b for a, b in itertools.combinations(hashes, 2))
    assert all(0 <= value <= MAX_SEED for value in hashes)


def test_bits_stay_as_they_are():
    """The hash is written down: another one would change every kept result."""
    assert keys._hash("weights") == int.from_bytes(bytes.fromhex("9a129038"), "little")


def test_repeats_have_keys_of_their_own():
    found = list(repeat_keys(root_key(1), Purpose.IMAGES, 3))
    assert [bits(key) for key in found] == [
        bits(key_numbered(key_for(root_key(1), Purpose.IMAGES), r)) for r in range(3)
    ]
    assert len({bits(key) for key in found}) == 3


def test_a_purpose_that_is_not_named_is_refused():
    with pytest.raises(ValueError, match="no purpose"):
        key_for(root_key(0), "no purpose")


@pytest.mark.parametrize("seed", [0, 1, MAX_SEED, np.int64(7)])
def test_seeds_of_32_bits_are_taken(seed):
    assert bits(root_key(seed)) == bits(jax.random.key(int(seed)))


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 2**40, 1.0, "1", True, None])
def test_other_seeds_are_refused(seed):
    with pytest.raises(ValueError, match=r"seed=.*; allowed: a whole number from 0 to 4294967295"):
        root_key(seed)
