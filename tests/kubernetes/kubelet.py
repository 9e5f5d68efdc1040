"""A small kubelet for several nodes at a time, and the cluster's DNS.

    python kubelet.py KUBECONFIG IMAGE-ROOT DOCKERFILE STATE

Registers the nodes, keeps their leases, and runs the pods that the scheduler gives them. SIGUSR1 takes the power from
all nodes for a moment: every container is gone at once, and every pod comes back with another address.
"""

from __future__ import annotations

import datetime
import os
import pathlib
import signal
import sys
import threading
import time
import traceback

from kubernetes import client

import dns
import network
from api import STRATEGIC, Api, Object, follow
from container import now
from image import Image
from pod import FORCED_GRACE, Pod

NODES = [f"node-{number}" for number in range(1, 6)]
LEASE_SECONDS = 40
RENEW_SECONDS = 10
ROOM = {"cpu": "64", "memory": "64Gi", "pods": "110", "ephemeral-storage": "100Gi"}
LEASES = "kube-node-lease"


class Kubelet:
    def __init__(self, api: Api, image: Image, state: pathlib.Path) -> None:
        self._api, self._image, self._state = api, image, state
        self._pods: dict[str, Pod] = {}
        self._lock = threading.Lock()

    # Nodes.

    def register(self) -> None:
        for name in NODES:
            labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
            self._api.core.create_node({"metadata": {"name": name, "labels": labels}})
            # Without an owner a lease would outlive its node; here neither outlives the run.
            spec = {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": self._moment()}
            self._api.leases.create_namespaced_lease(LEASES, {"metadata": {"name": name}, "spec": spec})
            self._tell_status(name)

    def keep_leases(self) -> None:
        while True:
            time.sleep(RENEW_SECONDS)
            for name in NODES:
                try:
                    body = {"spec": {"renewTime": self._moment()}}
                    self._api.leases.patch_namespaced_lease(name, LEASES, body, _content_type=STRATEGIC)
                    self._tell_status(name)
                except (client.ApiException, OSError) as error:
                    print(f"lease of {name}: {error}", flush=True)

    def _tell_status(self, name: str) -> None:
        kinds = {"Ready": "True", "MemoryPressure": "False", "DiskPressure": "False", "PIDPressure": "False"}
        conditions = [
            {"type": kind, "status": status, "reason": "Kubelet", "lastHeartbeatTime": now()}
            for kind, status in kinds.items()
        ]
        addresses = [{"type": "InternalIP", "address": str(network.GATEWAY)}, {"type": "Hostname", "address": name}]
        status = {"conditions": conditions, "capacity": ROOM, "allocatable": ROOM, "addresses": addresses}
        self._api.core.patch_node_status(name, {"status": status}, _content_type=STRATEGIC)

    @staticmethod
    def _moment() -> str:
        return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    # Pods.

    def follow_pods(self) -> None:
        """For ever: starts pods that are new here, and ends those that are to end."""
        scheduled = {"field_selector": "spec.nodeName!="}
        for kind, pods in follow(self._api.core.list_pod_for_all_namespaces, **scheduled):
            if kind == "LIST":
                present = {str(pod["metadata"]["uid"]) for pod in pods}
                for uid in self._pods.keys() - present:
                    self._forget(uid)
            for pod in pods:
                if kind == "DELETED":
                    self._forget(pod["metadata"]["uid"])
                else:
                    self._see(pod)

    def _see(self, manifest: Object) -> None:
        uid = manifest["metadata"]["uid"]
        if uid not in self._pods:
            if manifest.get("status", {}).get("phase") in ("Succeeded", "Failed"):
                return
            pod = Pod(self._api, self._image, manifest, self._state, self.event)
            with self._lock:
                self._pods[uid] = pod
            pod.start()
        if "deletionTimestamp" in manifest["metadata"]:
            self._pods[uid].terminate(manifest["metadata"]["deletionGracePeriodSeconds"])

    def _forget(self, uid: str) -> None:
        with self._lock:
            pod = self._pods.pop(uid, None)
        if pod is not None:
            pod.terminate(FORCED_GRACE)

    def lose_power(self) -> None:
        with self._lock:
            pods = list(self._pods.values())
        # All networks first, so that nobody sees anybody end.
        for cut in (Pod.unplug, Pod.lose_power):
            for pod in pods:
                cut(pod)

    # Events.

    def event(self, pod: Object, kind: str, reason: str, words: str) -> None:
        """Tells what happened to a pod. Nothing depends on it."""
        metadata = pod["metadata"]
        regarding = {"kind": "Pod", "apiVersion": "v1"} | {key: metadata[key] for key in ("name", "namespace", "uid")}
        body = {
            "metadata": {"generateName": f"{metadata['name']}.", "namespace": metadata["namespace"]},
            "involvedObject": regarding,
            "type": kind,
            "reason": reason,
            "message": words[:1000],
            "source": {"component": "kubelet", "host": pod["spec"]["nodeName"]},
            "firstTimestamp": now(),
            "lastTimestamp": now(),
            "count": 1,
        }
        print(f"{now()} {metadata['namespace']}/{metadata['name']} {reason}: {words}", flush=True)
        try:
            self._api.core.create_namespaced_event(metadata["namespace"], body, _preload_content=False)
        except (client.ApiException, OSError) as error:
            print(f"event not told: {error}", flush=True)


def give_up(failure: threading.ExceptHookArgs) -> None:
    """Nothing is to be missing without anybody noticing: an error in a thread ends the process."""
    traceback.print_exception(failure.exc_value)
    os._exit(1)


def main() -> None:
    threading.excepthook = give_up
    kubeconfig, root, dockerfile, state = sys.argv[1:]
    api = Api(kubeconfig)
    image = Image.read(pathlib.Path(dockerfile), pathlib.Path(root))
    kubelet = Kubelet(api, image, pathlib.Path(state))
    signal.signal(signal.SIGUSR1, lambda *_: threading.Thread(target=kubelet.lose_power, daemon=True).start())
    dns.serve(api, str(network.GATEWAY))
    kubelet.register()
    threading.Thread(target=kubelet.keep_leases, daemon=True).start()
    kubelet.follow_pods()


if __name__ == "__main__":
    main()
