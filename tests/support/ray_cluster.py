"""A Ray cluster of two nodes on this machine, each with a core and processes of its own.

The second is said to have a GPU, which Ray believes.
"""

import os
import re
import signal
from contextlib import contextmanager
from pathlib import Path

WORKERS = re.compile(rb"ray::(_answer|IDLE)")


@contextmanager
def two_nodes():
    """Yield a `ray.cluster_utils.Cluster`; a run on its first node is the driver.

    Workers take Feast, where they import it, without typeguard, which takes seconds.
    """
    from ray.cluster_utils import Cluster

    missed = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000}
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={**node, "_system_config": missed},
    )
    try:
        cluster.add_node(**node, num_gpus=1)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


def kill_workers(*nodes):
    """Kill the processes of nodes that compute tasks, or could; return their ids."""
    killed = []
    for node in nodes:
        (raylet,) = node.all_processes["raylet"]
        for thread in Path(f"/proc/{raylet.process.pid}/task").iterdir():
            for pid in (thread / "children").read_text().split():
                # The others are Ray's own, without which a node is lost.
                if WORKERS.match(Path(f"/proc/{pid}/cmdline").read_bytes()):
                    os.kill(int(pid), signal.SIGKILL)
                    killed.append(pid)
    return killed
