"""A feature repo whose snapshots are in Iceberg tables."""

from support.feast_repo import Repo

DOMAIN = "    repo=REPO,\n    owner=OWNER,\n"
WAREHOUSE = "data/warehouse"


def in_iceberg(
    repo: Repo,
    warehouse: str = f'REPO / "{WAREHOUSE}"',
    more: str = "",
    file: str = "views.py",
    line: str = DOMAIN,
) -> Repo:
    """Have a repo keep its snapshots in Iceberg tables, as a user would say it."""
    place = f"    snapshots=IcebergSnapshots(warehouse={warehouse}{more}),\n"
    repo.edit(file, line, line + place)
    text = (repo.path / file).read_text()
    head = "from activity_embeddings import IcebergSnapshots\n"
    before, found, after = text.partition("\nfrom ")
    (repo.path / file).write_text(f"{before}\n{head}from {after}" if found else text)
    return repo
