"""The files of a feature repo, as Feast's command finds them."""

from pathlib import Path

import pytest
from feast.utils import get_default_yaml_file_path

from activity_embeddings.transformations.feast_compat.repo import SETTINGS_VARIABLE, settings_file


@pytest.mark.parametrize("elsewhere", [None, "elsewhere.yaml", "/a/feature_store.yaml", ""])
def test_the_settings_file_is_the_one_that_feast_finds(elsewhere, monkeypatch):
    monkeypatch.delenv(SETTINGS_VARIABLE, raising=False)
    if elsewhere is not None:
        monkeypatch.setenv(SETTINGS_VARIABLE, elsewhere)
    assert settings_file(Path("repo")) == get_default_yaml_file_path(Path("repo"))
    assert settings_file(Path("repo")).name == {None: "feature_store.yaml"}.get(
        elsewhere, Path(elsewhere or "").name
    )
