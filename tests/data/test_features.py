"""A TFDS folder of another hand: features.json may name no class but those of image builders."""

import json

import pytest

from saboc_jax.data.tfds import FEATURES, FEATURES_ARE_IN, check_features


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name", "type"])
@pytest.mark.parametrize("name", ["antigravity.Feature", f"{FEATURES_ARE_IN}dataset_feature.X", 3])
def test_another_class_is_refused_before_its_module_is_imported(tmp_path, key, name):
    path = tmp_path / "features.json"
    inner = {"content": [{"image": {key: name}}]}
    path.write_text(json.dumps({key: f"{FEATURES_ARE_IN}features_dict.FeaturesDict"} | inner))
    with pytest.raises(
        ValueError, match=r"features\.json names the class .*; allowed: class_label"
    ):
        check_features(path)


def test_the_builders_own_are_read(tmp_path):
    path = tmp_path / "features.json"
    path.write_text(
        json.dumps({str(n): {"type": FEATURES_ARE_IN + f} for n, f in enumerate(FEATURES)})
    )
    check_features(path)


def test_another_form_is_named(tmp_path):
    path = tmp_path / "features.json"
    path.write_text("[]")
    with pytest.raises(
        ValueError, match=r"features\.json: the content is \[\]; allowed: an object"
    ):
        check_features(path)
