"""What is online is remembered for one store and configuration."""

from activity_embeddings.transformations.online.publish import store_identity


def test_a_store_is_told_from_another_by_its_configuration(repo):
    config = repo.store.config
    same = repo.store.config
    assert store_identity(config) == store_identity(same)
    repo.edit("feature_store.yaml", "path: data/online.db", "path: data/other.db")
    assert store_identity(repo.store.config) != store_identity(config)
