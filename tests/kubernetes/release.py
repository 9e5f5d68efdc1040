"""One installation of the chart, and its witness."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import grpc

from api import Object, raw
from witness import CALL_SECONDS, OPTIONS, RPC_PORT, Witness, kv, services
from world import CHART, World, require

HELM_TIMEOUT = "15m"


@dataclasses.dataclass
class Release:
    """`values` are what helm was told last, and are told again by every upgrade."""

    world: World
    name: str = "kv"
    namespace: str = "default"
    values: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.fullname = self.name if "mokv" in self.name else f"{self.name}-mokv"
        self.witness = Witness(self.world.api, self.namespace, self.name)
        self.volumes_lost = 0

    # What helm does.

    def install(self) -> None:
        self._helm("install")

    def upgrade(self, **values: str) -> None:
        """Changes values."""
        self.values |= values
        self._helm("upgrade")

    def uninstall(self) -> None:
        self.world.helm("uninstall", self.name, f"--namespace={self.namespace}", "--wait", f"--timeout={HELM_TIMEOUT}")
        self.world.eventually("no pod is left", lambda: not self.pods())

    def test(self) -> None:
        self.world.helm("test", self.name, f"--namespace={self.namespace}", f"--timeout={HELM_TIMEOUT}")

    def _helm(self, verb: str) -> None:
        words = [verb, self.name, str(CHART), f"--namespace={self.namespace}", "--wait", f"--timeout={HELM_TIMEOUT}"]
        self.world.helm(*words, *(f"--set={key}={value}" for key, value in self.values.items()))

    # What can be seen of it.

    def pods(self) -> list[Object]:
        """Those of the StatefulSet, in the order of their numbers."""
        pods = raw(self.world.api.core.list_namespaced_pod, self.namespace)["items"]
        mine = [pod for pod in pods if self._owns(pod)]
        return sorted(mine, key=lambda pod: int(pod["metadata"]["name"].rpartition("-")[2]))

    def _owns(self, pod: Object) -> bool:
        owners = pod["metadata"].get("ownerReferences", [])
        return any(owner["kind"] == "StatefulSet" and owner["name"] == self.fullname for owner in owners)

    def addresses(self) -> dict[str, str]:
        return {pod["metadata"]["name"]: pod.get("status", {}).get("podIP", "") for pod in self.pods()}

    def endpoints(self) -> str:
        """Where its pods answer, as the program's commands want to be told."""
        return ",".join(f"{address}:{RPC_PORT}" for address in self.addresses().values() if address)

    def nodes(self) -> dict[str, str]:
        return {pod["metadata"]["name"]: pod["spec"].get("nodeName", "") for pod in self.pods()}

    def is_rolled_out(self, replicas: int) -> bool:
        """Whether the controller has seen the last change, and all pods are of it and ready."""
        try:
            found = raw(self.world.api.apps.read_namespaced_stateful_set, self.fullname, self.namespace)
        except Exception:
            return False
        status = found.get("status", {})
        return (
            status.get("observedGeneration") == found["metadata"]["generation"]
            and found["spec"]["replicas"] == replicas
            and all(status.get(key) == replicas for key in ("replicas", "readyReplicas", "updatedReplicas"))
            and status.get("currentRevision") == status.get("updateRevision")
        )

    def wait_for(self, replicas: int) -> None:
        """Waits until so many pods are ready, and the members of the cluster are exactly they."""
        self.world.eventually(f"{replicas} pods of {self.fullname} are ready", lambda: self.is_rolled_out(replicas))
        want = {f"{self.fullname}-{number}" for number in range(replicas)}
        self.world.eventually(f"the voters are {sorted(want)}", lambda: self.voters() == want)

    def members(self) -> dict[str, Any]:
        """By name; nothing where nobody answers."""
        for address in filter(None, self.addresses().values()):
            with grpc.insecure_channel(f"{address}:{RPC_PORT}", OPTIONS) as channel:
                try:
                    answer = services.KVStub(channel).GetServers(kv.GetServersRequest(), timeout=CALL_SECONDS)
                except grpc.RpcError:
                    continue
                return {server.id: server for server in answer.servers}
        return {}

    def voters(self) -> set[str]:
        return {name for name, server in self.members().items() if not server.is_learner}

    def logs(self) -> list[pathlib.Path]:
        return sorted(self.world.logs(self.namespace))

    def require_writes(self) -> None:
        require(self.witness.wait_for_writes(100), "no writes are acknowledged any more")

    # What happens to it.

    def lose_volume(self, number: int) -> None:
        """The disk of a pod is gone: its claim and its volume are deleted, and the pod, which gets new ones."""
        claim, pod = f"data-{self.fullname}-{number}", f"{self.fullname}-{number}"
        here = f"--namespace={self.namespace}"
        before = json.loads(self.world.kubectl("get", "persistentvolumeclaim", claim, here, "--output=json"))
        self.world.kubectl("delete", "persistentvolumeclaim", claim, here, "--wait=false")
        self.world.kubectl("delete", "pod", pod, here)
        self.world.eventually(f"{claim} is bound anew", lambda: self._is_other_claim(claim, before["metadata"]["uid"]))
        self.world.destroy_volume(before["spec"]["volumeName"])
        self.volumes_lost += 1

    def _is_other_claim(self, name: str, uid: str) -> bool:
        claims = raw(self.world.api.core.list_namespaced_persistent_volume_claim, self.namespace)["items"]
        return any(
            claim["metadata"]["name"] == name
            and claim["metadata"]["uid"] != uid
            and claim.get("status", {}).get("phase") == "Bound"
            for claim in claims
        )
