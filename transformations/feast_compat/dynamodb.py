"""What Feast's DynamoDB store connects by, which it makes when it is first asked for something.

`_get_dynamodb_resource` and `_get_dynamodb_client` are those of Feast 0.67. They keep what they
make in the store's object, and make it by a session of boto3 that all threads share.
"""

from __future__ import annotations

from typing import Any

from feast import RepoConfig


def connect(config: RepoConfig, store: Any) -> None:
    """Make a `DynamoDBOnlineStore` ready; not while another thread makes one ready."""
    settings = config.online_store
    where = settings.region, settings.endpoint_url, settings.session_based_auth
    store._get_dynamodb_resource(*where)
    store._get_dynamodb_client(*where)
