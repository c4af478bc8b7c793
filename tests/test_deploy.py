"""The examples of deployment: what images and manifests would run is run, on real stores.

There is no Docker where the suite runs. A container is a folder that the Dockerfile's COPY lines
fill, and a process with the environment that compose gives it; PostgreSQL, Redis and S3 are servers
of this machine, so that the hosts of `settings.env` are replaced. The S3 is moto's, as in compose.
"""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import ExitStack
from fnmatch import fnmatch

import kubernetes_validate
import psycopg
import pytest
import yaml

from activity_embeddings import entity_rows
from activity_embeddings.transformations.errors import (
    AlreadyRunning,
    GuardFailed,
    InvalidInput,
    StoreUnreachable,
)
from support.commands import commands
from support.feast_repo import PROJECT, Repo, at, small_repo
from support.feast_server import feast_server
from support.postgres_server import PASSWORD
from support.redis_server import redis_server, use_redis
from support.s3_server import s3_server

pytestmark = [pytest.mark.slow, pytest.mark.process, pytest.mark.redis, pytest.mark.postgres]

DEPLOY = PROJECT / "examples" / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
MANIFESTS = [
    manifest
    for file in ("kubernetes.yaml", "kubernetes-apply.yaml")
    for manifest in yaml.safe_load_all((DEPLOY / file).read_text())
]
OURS = ["seed", "apply", "publish", "serve"]


def dockerfile():
    """Return the instructions of each stage, as (instruction, rest), by the stage's name."""
    stages, name = {}, None
    text = re.sub(r"\\\n", "", (DEPLOY / "Dockerfile").read_text())
    for line in text.splitlines():
        if line and not line.startswith("#"):
            instruction, _, rest = line.partition(" ")
            if instruction == "FROM":
                name = rest.split()[-1]
                stages[name] = [("FROM", rest.split()[0])]
            elif name:
                stages[name].append((instruction, rest))
    return stages


STAGES = dockerfile()


def lines(stage, instruction):
    """Return what a stage, and the stage it comes from, has of an instruction."""
    (parent,) = (rest for what, rest in STAGES[stage] if what == "FROM")
    inherited = lines(parent, instruction) if parent in STAGES else []
    return inherited + [rest for what, rest in STAGES[stage] if what == instruction]


def settings():
    text = (DEPLOY / "settings.env").read_text()
    named = [line.split("=", 1) for line in text.splitlines() if line and line[0] != "#"]
    return dict(named)


class Machine:
    """Runs containers: each has a folder of its own, and nothing of another's."""

    def __init__(self, folder, programs, environment):
        self.folder, self.programs, self.environment = folder, programs, environment
        self.count = 0

    def container(self, stage):
        """Return the folder /repo of a new container, made as the Dockerfile makes it."""
        self.count += 1
        repo = self.folder / f"{self.count}-{stage}"
        assert lines(stage, "COPY") == ["--from=repo /repo /repo"]
        for copied in lines("repo", "COPY"):
            source, target = copied.split()
            assert target == "/repo"
            shutil.copytree(PROJECT / source, repo, dirs_exist_ok=True)
        for command in lines("repo", "RUN"):
            subprocess.run(command.replace("/repo", str(repo)), shell=True, check=True)
        assert "--owner feast /repo/data" in lines("base", "RUN")[0]
        (repo / "data").mkdir()
        return Repo(repo)

    def variables(self, repo):
        """Return the environment of a container."""
        return self.environment | {"ACTIVITY_EMBEDDINGS_CACHE": str(repo.data / "cache")}

    def run(self, stage, command, **more):
        """Run a command in a new container."""
        repo = self.container(stage)
        return subprocess.run(
            command,
            cwd=repo.path,
            env=self.variables(repo) | {"PATH": f"{self.programs}:{os.environ['PATH']}"} | more,
            capture_output=True,
            text=True,
            check=False,
        )

    def service(self, name):
        """Run a service of compose to its end; what it mounts is where it is in the checkout."""
        stage = SERVICES[name]["build"]["target"]
        mounts = [mount.split(":")[:2] for mount in SERVICES[name].get("volumes", ())]
        command = SERVICES[name]["command"]
        for source, target in mounts:
            real = (DEPLOY / source).resolve()
            command = [part.replace(f"{target}/", f"{real}/") for part in command]
        done = self.run(stage, command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def machine(postgres, tmp_path_factory):
    folder = tmp_path_factory.mktemp("machine")
    (folder / "bin").mkdir()
    with ExitStack() as stack:
        s3 = stack.enter_context(s3_server())
        redis = stack.enter_context(redis_server())
        programs = stack.enter_context(commands(folder / "bin"))
        database = postgres.new()
        place = f"{database.host}:{database.port}/{database.database}"
        environment = {
            key: value.replace("feast:feast@postgres:5432/feast", f"feast:{PASSWORD}@{place}")
            .replace("redis:6379", redis)
            .replace("http://s3:5000", s3)
            for key, value in settings().items()
        }
        assert not any(host in str(environment) for host in ("@postgres", "'redis:", "//s3"))
        yield Machine(folder, programs, environment | {"AWS_EC2_METADATA_DISABLED": "true"})


def services_in_order():
    """Return those of our services that run to their end, after what they depend on."""
    done = []
    for _ in OURS:
        for name in OURS[:-1]:
            waits_for = [n for n in SERVICES[name].get("depends_on", ()) if n in OURS]
            if name not in done and set(waits_for) <= set(done):
                done.append(name)
    return done


@pytest.fixture(scope="module")
def published(machine):
    """The machine after everything that compose runs before it serves."""
    for name in services_in_order():
        machine.service(name)
    return machine


@pytest.fixture(scope="module")
def server(published, tmp_path_factory):
    """The service `serve` of compose, in a container that has nothing of those before."""
    (command,) = lines("serve", "CMD")
    feast, serve, *arguments = json.loads(command)
    assert (feast, serve) == ("feast", "serve") and "command" not in SERVICES["serve"]
    log = tmp_path_factory.mktemp("log") / "serve.log"
    repo = published.container("serve")
    with feast_server(repo, log, *arguments, **published.variables(repo)) as running:
        yield running
        assert list(repo.data.glob("cache/**/matrix.npy")), "no table of item vectors was mapped"


def test_compose_publishes_and_serves(server):
    (probe,) = re.findall(
        r"http://localhost:6566(/\w+)", SERVICES["serve"]["healthcheck"]["test"][-1]
    )
    status, said = server.call(probe)
    assert status == 200 and said["problems"] == [] and len(said["views"]) == 2
    stored = server.features(
        {"feature_service": "recommendations_v1", "entities": {"member_id": [5344]}}
    )
    assert min(stored["activity_count"]) > 0
    rows = entity_rows(
        [5344],
        {5344: [(230, "SAVE", "1999-03-31T00:00:30Z")]},
        request_timestamp="1999-03-31T00:01Z",
    )
    now = server.features(
        {
            "feature_service": "recommendations_v1_realtime",
            "entities": {name: [row[name] for row in rows] for name in rows[0]},
        }
    )
    assert now["new_activity_count"] == [1]


def test_what_compose_published_is_what_the_events_give(published):
    done = published.run("publish", ["activity-embeddings", "check", "--sample", "50"])
    assert done.returncode == 0, done.stdout + done.stderr


def test_registry_and_tables_name_no_folder_of_a_container(published):
    address = published.environment["REGISTRY"].replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(address) as connection:
        (protos,) = connection.execute(
            "SELECT string_agg(feature_view_proto, '') FROM feature_views"
        ).fetchone()
        tables = connection.execute("SELECT metadata_location FROM iceberg_tables").fetchall()
    assert str(published.folder).encode() not in protos and b"s3://lake/warehouse" in protos
    # Three views of members, the item vectors and the records of runs.
    assert len(tables) == 5 and all(t[0].startswith("s3://lake/warehouse/") for t in tables)


def containers():
    """Return (pod, container) of every manifest that has pods, by the manifest's kind."""
    found = {}
    for manifest in MANIFESTS:
        spec = manifest["spec"]
        if manifest["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if "template" in spec:
            pod = spec["template"]["spec"]
            (found[manifest["kind"]],) = [(pod, each) for each in pod["containers"]]
    return found


def test_the_cron_job_publishes_what_came_since(published, tmp_path):
    """On a day of 1999, which the `date` of the container says."""
    date = tmp_path / "date"
    date.write_text('#!/bin/sh\nexec /bin/date --date 1999-04-01 "$@"\n')
    date.chmod(0o755)
    _, container = containers()["CronJob"]
    (command,) = lines("publish", "CMD")
    assert json.loads(command) == container["command"]
    path = f"{tmp_path}:{published.programs}:{os.environ['PATH']}"
    done = published.run("publish", container["command"], PATH=path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1999-04-01" in done.stdout


@pytest.fixture(scope="module")
def orchestrated():
    """The module that the Airflow and the Dagster example share, which imports nothing of ours."""
    source = (DEPLOY / "orchestrators" / "publish.py").read_text()
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    assert imported <= sys.stdlib_module_names
    module = {}
    exec(compile(source, "publish.py", "exec"), module)
    return module


def test_an_orchestrator_tells_what_to_try_again(models, orchestrated, tmp_path):
    repo = small_repo(tmp_path / "repo", models, members=150)
    repo.run("apply")
    (tmp_path / "bin").mkdir()
    publish = orchestrated["publish"]
    with commands(tmp_path / "bin") as programs:
        command = (str(programs / "activity-embeddings"), "-C", str(repo.path))
        publish(at(2), at(3), command)
        assert len(repo.online_rows()) == 5
        with pytest.raises(orchestrated["Refused"], match="exit status 2"):
            publish(at(3), at(4), (*command, "--no-such-option"))
        line = "  snapshot_interval_hours: 24"
        repo.edit("feature_store.yaml", line, f"  guards: {{activities: {{limit: 0}}}}\n{line}")
        with pytest.raises(orchestrated["Refused"], match="exit status 3"):
            publish(at(3), at(4), command)
        use_redis(repo, "127.0.0.1:1,retry=null")
        with pytest.raises(orchestrated["TryAgain"], match="exit status 5"):
            publish(at(2), at(3), command)


def test_exit_statuses_are_those_of_the_package(orchestrated):
    final = {InvalidInput.exit_code, 2, GuardFailed.exit_code}  # 2 is click's for wrong usage
    again = {AlreadyRunning.exit_code, StoreUnreachable.exit_code}
    assert set(orchestrated["FINAL"]) == final and not final & again
    (cron,) = [m for m in MANIFESTS if m["kind"] == "CronJob"]
    rules = cron["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    (fails,) = [rule["onExitCodes"] for rule in rules if rule["action"] == "FailJob"]
    assert (set(fails["values"]), fails["operator"]) == (final, "In")
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    assert cron["spec"]["jobTemplate"]["spec"]["backoffLimit"] > 0


@pytest.mark.parametrize("manifest", MANIFESTS, ids=[m["kind"] for m in MANIFESTS])
def test_manifests_are_what_kubernetes_takes(manifest):
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_pods_run_the_images_of_the_dockerfile_and_probes_are_answered(server):
    user = next(re.search(r"--uid (\d+)", rest)[1] for rest in lines("base", "RUN"))
    for kind, (pod, container) in containers().items():
        stage = container["image"].removeprefix("activity-embeddings-")
        assert stage in STAGES and lines(stage, "USER") == [user]
        assert pod["securityContext"]["runAsUser"] == int(user)
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert "/tmp" in mounted and (kind == "Job" or "/repo/data" in mounted)
    _, serve = containers()["Deployment"]
    (port,) = serve["ports"]
    assert str(port["containerPort"]) in lines("serve", "EXPOSE")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = serve[probe]["httpGet"]
        assert asked["port"] == port["name"] and server.call(asked["path"])[0] == 200
    assert serve["readinessProbe"]["httpGet"]["path"] == "/ready"


def test_images_are_small_and_not_of_the_superuser():
    for stage in ("publish", "serve"):
        (install,) = [rest for rest in lines(stage, "RUN") if "pip install" in rest]
        (extras,) = re.findall(r"\[(.*?)\]", install)
        assert extras.split(",") == ["iceberg", "postgres", "redis"]
    (serve,) = [rest for rest in lines("serve", "RUN") if "pip install" in rest]
    assert shlex.split(serve)[-3:] == ["tensorflow", "keras", "libclang"]


def test_what_is_sent_to_the_builder_is_what_the_dockerfile_copies():
    patterns = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    kept = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    assert patterns[1] == "*"
    copied = [rest.split()[0] for rest in lines("repo", "COPY")]
    assert set(copied) <= set(kept)
    assert all((PROJECT / path).exists() for path in kept)
    project = (PROJECT / "pyproject.toml").read_text()
    for named in re.findall(r'(?:readme|license-files) = (?:\[)?"(.*?)"', project):
        assert any(fnmatch(named, pattern) for pattern in kept)


ENDPOINT = "    s3_endpoint_override=S3_ENDPOINT,\n"
CHANGED = {
    "sources.py": [
        (
            "import ActivitySpec, activity_view",
            "import ActivitySpec, IcebergSnapshots, activity_view",
        ),
        (
            'OWNER = "recommendations@example.com"\n',
            'OWNER = "recommendations@example.com"\n\n'
            "# The catalog is in PostgreSQL, whose address is in settings.env alone.\n"
            'SNAPSHOTS = IcebergSnapshots("s3://lake/warehouse")\n'
            'S3_ENDPOINT = os.environ.get("S3_ENDPOINT", "")  # of another store than Amazon\'s\n',
        ),
        ("from datetime import timedelta\n", "import os\nfrom datetime import timedelta\n"),
        ('"data/activity_events",\n', f'"s3://lake/activity_events",\n{ENDPOINT}'),
    ],
    "item_vectors.py": [
        ("import OWNER, REPO", "import OWNER, REPO, S3_ENDPOINT, SNAPSHOTS"),
        ('"data/job_postings.parquet",\n', f'"s3://lake/job_postings.parquet",\n{ENDPOINT}'),
        ("    repo=REPO,\n", "    repo=REPO,\n    snapshots=SNAPSHOTS,\n"),
        (
            "    snapshots=SNAPSHOTS,\n",
            '    snapshots=SNAPSHOTS,\n    table="s3://lake/vector_tables/{view}",\n',
        ),
    ],
    "views.py": [
        ("import OWNER, REPO, activity", "import OWNER, REPO, SNAPSHOTS, activity"),
        ("    repo=REPO,\n", "    repo=REPO,\n    snapshots=SNAPSHOTS,\n"),
    ],
}


@pytest.mark.parametrize("file", CHANGED)
def test_the_definitions_are_those_of_the_sample_but_for_their_places(file):
    text = (PROJECT / "feature_repo" / file).read_text()
    for old, new in CHANGED[file]:
        assert text.count(old) == 1
        text = text.replace(old, new)
    assert (DEPLOY / "feature_repo" / file).read_text() == text
