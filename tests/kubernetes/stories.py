"""The stories: what happens to pods in their lives, one after the other in the same cluster."""

from __future__ import annotations

import base64
import dataclasses
import secrets
import time
from collections.abc import Callable
from typing import Any

from api import Object, raw
from release import Release
from runbook import Procedure
from witness import Tally
from world import CHART, World, require

# How long nothing may happen where nothing can: longer than anything here takes that does happen.
STANDSTILL_SECONDS = 90.0


@dataclasses.dataclass
class Outcome:
    """What one story was for one release."""

    pods: int
    volumes_lost: int
    tally: Tally
    violations: list[str]


class Stage:
    """The world with the release that most stories are about. Each story can be the first one."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._main: Release | None = None
        self._releases: list[Release] = []
        self._outcomes: list[Outcome] = []

    def begin(self) -> None:
        self._outcomes = []
        for release in self._releases:
            release.volumes_lost = 0
            release.witness.begin()

    def end(self) -> list[Outcome]:
        """Everything that was promised in this story, and in those before, is looked at once more."""
        for release in self._releases:
            self._judge(release)
        return self._outcomes

    def add(self, release: Release) -> Release:
        """A release that is witnessed from now on, in later stories too."""
        self._releases.append(release)
        release.witness.begin()
        return release

    def remove(self, release: Release) -> None:
        """It is witnessed no longer, because it will be gone."""
        self._releases.remove(release)
        self._judge(release)

    def main(self) -> Release:
        """Three pods that are ready and written to."""
        if self._main is None:
            self._main = self.add(Release(self.world))
            self._main.install()
        self._main.wait_for(3)
        self._main.require_writes()
        return self._main

    def _judge(self, release: Release) -> None:
        tally = release.witness.end()
        self._outcomes.append(Outcome(len(release.pods()), release.volumes_lost, tally, release.witness.violations))


Story = Callable[[Stage], None]
STORIES: dict[str, Story] = {}


def story(tell: Story) -> Story:
    STORIES[tell.__name__.replace("_", "-")] = tell
    return tell


@story
def first_start(stage: Stage) -> None:
    """helm install on empty volumes."""
    release = stage.main()
    restarts = {pod["metadata"]["name"]: _restarts(pod) for pod in release.pods()}
    require(not any(restarts.values()), f"containers were restarted: {restarts}")
    nodes = release.nodes()
    require(len(set(nodes.values())) == 3, f"pods share nodes: {nodes}")


@story
def rolling_restart(stage: Stage) -> None:
    """kubectl rollout restart, under load: every pod is another one, and never are two missing."""
    release = stage.main()
    before = _uids(release)
    release.witness.watch_ready()
    stage.world.kubectl("rollout", "restart", f"statefulset/{release.fullname}", f"--namespace={release.namespace}")
    release.wait_for(3)
    require(not before & _uids(release), "a pod was not restarted")
    _require_ready(release, 2)
    release.require_writes()


@story
def changed_setting(stage: Stage) -> None:
    """helm upgrade with another log level: the pods are restarted and log as told."""
    release = stage.main()
    before = _uids(release)
    release.witness.watch_ready()
    release.upgrade(**{"config.log-level": "debug"})
    release.wait_for(3)
    require(not before & _uids(release), "a pod was not restarted")
    _require_ready(release, 2)
    for pod in release.pods():
        folder = f"{pod['metadata']['name']}-{pod['metadata']['uid'][:8]}"
        logs = [log for log in release.logs() if log.parent.name == folder]
        require(any("DEBUG" in log.read_text() for log in logs), f"{folder} does not log what it was told to")
    release.upgrade(**{"config.log-level": "info"})
    release.wait_for(3)
    release.require_writes()


@story
def lost_volume_of_pod_0(stage: Stage) -> None:
    """The disk of the pod that everything begins with: it joins the others, and forms nothing of its own."""
    _lose_volume(stage.main(), 0)


@story
def lost_volume_of_pod_1(stage: Stage) -> None:
    """The disk of another pod."""
    _lose_volume(stage.main(), 1)


def _lose_volume(release: Release, number: int) -> None:
    name = f"{release.fullname}-{number}"
    before = release.members()
    release.lose_volume(number)

    def has_new_id() -> bool:
        members = release.members()
        return name in members and members[name].node_id != before[name].node_id and not members[name].is_learner

    release.world.eventually(f"{name} is a voter under a new id", has_new_id)
    release.wait_for(3)
    release.require_writes()


@story
def power_cut(stage: Stage) -> None:
    """All pods are gone at once, and all come back under other addresses."""
    release = stage.main()
    before, uids = release.addresses(), _uids(release)
    stage.world.cut_power()

    def are_elsewhere() -> bool:
        return not set(before.values()) & set(release.addresses().values()) and release.is_rolled_out(3)

    stage.world.eventually("all pods are ready under other addresses", are_elsewhere)
    require(uids == _uids(release), "they are other pods, and not the same ones after a power cut")
    release.wait_for(3)
    release.require_writes()


@story
def all_deleted(stage: Stage) -> None:
    """All pods are deleted at once, by force: other pods under other addresses, and no quorum in between."""
    release = stage.main()
    before, uids = release.addresses(), _uids(release)
    stage.world.kubectl("delete", "pod", *before, f"--namespace={release.namespace}", "--force", "--grace-period=0")
    stage.world.eventually("all pods are other ones", lambda: not uids & _uids(release))
    release.wait_for(3)
    require(not set(before.values()) & set(release.addresses().values()), "a pod has kept its address")
    release.require_writes()


@story
def scaled(stage: Stage) -> None:
    """From 3 to 5, back to 3, to 5 again on the old volumes and back, by helm upgrade alone."""
    release = stage.main()
    for replicas in (5, 3, 5, 3):
        release.upgrade(replicas=str(replicas))
        release.wait_for(replicas)
        release.require_writes()


@story
def scaled_by_hand(stage: Stage) -> None:
    """kubectl scale takes pods away and leaves dead members behind; the next helm upgrade removes them."""
    release = stage.main()
    release.upgrade(replicas="5")
    release.wait_for(5)
    stage.world.kubectl("scale", f"statefulset/{release.fullname}", "--replicas=3", f"--namespace={release.namespace}")
    stage.world.eventually("three pods are left", lambda: release.is_rolled_out(3))
    require(len(release.voters()) == 5, f"the dead members are not members any more: {release.voters()}")
    release.require_writes()
    release.upgrade(replicas="3")
    release.wait_for(3)
    release.require_writes()


@story
def another_volume_size(stage: Stage) -> None:
    """docs/operate.md on growing volumes: the StatefulSet goes and comes back with another size, and the pods stay. (No
    volume grows: nothing here could do that.)"""
    release = stage.main()
    release.witness.watch_ready()
    # The new StatefulSet does not know of restarts that were asked for by hand: where there was one, the first time
    # restarts the pods, one after the other.
    _exchange_stateful_set(release, "20Gi")
    before = _uids(release)
    _exchange_stateful_set(release, "30Gi")
    require(before == _uids(release), "pods were exchanged")
    _require_ready(release, 2)
    release.require_writes()


def _exchange_stateful_set(release: Release, size: str) -> None:
    here = f"--namespace={release.namespace}"
    release.world.kubectl("delete", "statefulset", release.fullname, "--cascade=orphan", here)
    release.upgrade(**{"persistence.size": size})
    release.wait_for(3)


@story
def drained(stage: Stage) -> None:
    """Two nodes are drained at the same time: the disruption budget lets one pod go after the other."""
    release = stage.main()
    before = release.nodes()
    nodes = [before[f"{release.fullname}-{number}"] for number in (0, 1)]
    release.witness.watch_ready()
    flags = ["--ignore-daemonsets", "--delete-emptydir-data", "--timeout=600s"]
    drains = [stage.world.spawn("kubectl", "drain", node, *flags) for node in nodes]
    outputs = [stage.world.finish(drain) for drain in drains]
    release.wait_for(3)
    require(not set(nodes) & set(release.nodes().values()), "a pod is still on a drained node")
    _require_ready(release, 2)
    for node in nodes:
        stage.world.kubectl("uncordon", node)
    require(
        any("would violate" in output for output in outputs), f"the disruption budget refused no eviction: {outputs}"
    )
    release.require_writes()


@story
def helm_test(stage: Stage) -> None:
    """The chart's own test."""
    stage.main().test()


@story
def installed_again(stage: Stage) -> None:
    """helm uninstall, and helm install on the volumes that are left: everything is still there."""
    release = stage.main()
    release.uninstall()
    release.install()
    release.wait_for(3)
    release.require_writes()


@story
def exchanged_key(stage: Stage) -> None:
    """The cluster gets another key as docs/operate.md says: everything is still there, and a later upgrade keeps it."""
    release = stage.main()
    key = secrets.token_hex(32)
    Procedure("kubectl patch secret").follow(stage.world, NEW_KEY=key)
    release.wait_for(3)
    release.require_writes()
    release.upgrade()
    secret, here = f"{release.fullname}-key", f"--namespace={release.namespace}"
    there = stage.world.kubectl("get", "secret", secret, here, "--output=jsonpath={.data.cluster\\.key}")
    require(base64.b64decode(there).decode() == key, "the upgrade has put another key there")
    release.wait_for(3)
    release.require_writes()


@story
def restored_backup(stage: Stage) -> None:
    """A backup is restored as docs/operate.md says: a new cluster of it, on new volumes."""
    world, release = stage.world, stage.main()
    release.witness.end()
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    world.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "backups"}, "spec": claim})
    folder = world.folder_of("backups")
    before = release.members()
    world.program("snapshot", "save", str(folder / "monday.snap"), f"--endpoints={release.endpoints()}")
    Procedure("--filename restore.yaml").follow(world)
    release.volumes_lost += 3
    _is_another_cluster(release, before)


@story
def lost_quorum(stage: Stage) -> None:
    """The volumes of pods 0 and 1 are lost for good: docs/operate.md says how pod 2 goes on."""
    release = stage.main()
    release.witness.end()
    before = release.members()
    Procedure("--filename recover.yaml").follow(stage.world)
    release.volumes_lost += 2
    _is_another_cluster(release, before)


def _is_another_cluster(release: Release, before: dict[str, Any]) -> None:
    """All nodes have other ids, and everything that was acknowledged before is there."""
    release.wait_for(3)
    old = {member.node_id for member in before.values()}
    new = {member.node_id for member in release.members().values()}
    require(len(new) == 3 and not old & new, f"the nodes {new} are not all other ones than {old}")
    release.witness.begin()
    release.require_writes()


@story
def other_name(stage: Stage) -> None:
    """A second release in another namespace, with a name that the program's own variables begin with, and a secret
    that was there before."""
    world, namespace, key = stage.world, "elsewhere", "the-key"
    world.kubectl("create", "namespace", namespace)
    secret = f"--from-literal=cluster.key={secrets.token_hex(32)}"
    world.kubectl("create", "secret", "generic", key, secret, f"--namespace={namespace}")
    release = stage.add(Release(world, "mokv", namespace, {"clusterKey.existingSecret": key}))
    release.install()
    release.wait_for(3)
    release.test()
    release.require_writes()
    stage.remove(release)
    release.uninstall()


@story
def ordered_ready(stage: Stage) -> None:
    """The same chart with pods one after the other must hang at its first start: pod 0 waits for two others to form a
    cluster with, and Kubernetes for pod 0 to be ready. If it does not, this is a toy."""
    world, namespace = stage.world, "ordered"
    world.kubectl("create", "namespace", namespace)
    words = ["template", "kv", str(CHART), f"--namespace={namespace}", "--no-hooks", "--skip-tests"]
    parallel = world.helm(*words)
    ordered = parallel.replace("podManagementPolicy: Parallel", "podManagementPolicy: OrderedReady")
    require(ordered != parallel, "the chart does not say podManagementPolicy: Parallel")
    world.kubectl("apply", f"--namespace={namespace}", "--filename=-", stdin=ordered)

    def pods() -> list[Object]:
        return list(raw(world.api.core.list_namespaced_pod, namespace)["items"])

    def runs() -> bool:
        return any(pod.get("status", {}).get("phase") == "Running" for pod in pods())

    world.eventually("pod 0 runs", runs)
    end = time.monotonic() + STANDSTILL_SECONDS
    while time.monotonic() < end:
        names = [pod["metadata"]["name"] for pod in pods()]
        require(names == ["kv-mokv-0"], f"there are other pods than pod 0: {names}")
        conditions = {each["type"]: each["status"] for each in pods()[0]["status"]["conditions"]}
        require(conditions["Ready"] == "False", "pod 0 alone is ready")
        time.sleep(1)
    world.kubectl("delete", "namespace", namespace, "--wait=false")


def _restarts(pod: Object) -> int:
    return sum(status["restartCount"] for status in pod.get("status", {}).get("containerStatuses", []))


def _uids(release: Release) -> set[str]:
    return {pod["metadata"]["uid"] for pod in release.pods()}


def _require_ready(release: Release, least: int) -> None:
    seen = release.witness.tally.least_ready
    require(seen >= least, f"only {seen} pods were ready at a time")
