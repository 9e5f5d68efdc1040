"""A cluster to try things in: the control plane, the nodes, the volumes, and the tools of those who operate it."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import network
from api import Api, Object, raw
from control_plane import ControlPlane
from kubelet import NODES

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
CHART = pathlib.Path(os.environ.get("MOKV_CHART", REPOSITORY / "deploy/chart"))
STORAGE_CLASS = "folders"
VOLUMES = 30
# What has not come about by then never will.
LIMIT_SECONDS = 600.0
PAUSE_SECONDS = 0.5
# How much is shown of what there is to look at when a story fails.
LINES, WIDTH, LOGS = 30, 240, 8


class Failure(Exception):
    """A story did not go as it must."""


def require(holds: object, words: str) -> None:
    if not holds:
        raise Failure(words)


class World:
    def __init__(self, state: pathlib.Path, binaries: pathlib.Path, program: pathlib.Path) -> None:
        self._state, self._binaries = state, binaries
        self._program = program
        self._plane = ControlPlane(binaries, state / "control-plane")
        self._kubelet: subprocess.Popen[bytes] | None = None
        kubeconfig = self._plane.kubeconfig("admin")
        # Helm and kubectl keep what they remember in here, and not in anybody's home.
        scratch = {name: str(state / "tools") for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")}
        self._environment = os.environ | scratch | {"KUBECONFIG": str(kubeconfig), "KUBECACHEDIR": str(state / "tools")}
        self.api: Api

    def start(self) -> None:
        network.make_bridge()
        subprocess.run([REPOSITORY / "deploy/rootfs", self._program, self._state / "image"], check=True)
        self._plane.start()
        self.api = Api(str(self._plane.kubeconfig("admin")))
        words: list[str | pathlib.Path] = [
            self._plane.kubeconfig("admin"),
            self._state / "image",
            REPOSITORY / "deploy/Dockerfile",
            self._state,
        ]
        with (self._state / "kubelet.log").open("wb") as log:
            program = pathlib.Path(__file__).with_name("kubelet.py")
            self._kubelet = subprocess.Popen([sys.executable, "-B", program, *words], stdout=log, stderr=log)
        self._make_volumes()
        self.eventually("all nodes are ready", lambda: len(self._ready_nodes()) == len(NODES))

    def stop(self) -> None:
        if self._kubelet is not None:
            self._kubelet.kill()
            self._kubelet.wait()
        self._plane.stop()

    def remove(self) -> None:
        """Leaves only logs behind."""
        for name in ("control-plane/etcd", "image", "pods", "tools", "volumes"):
            shutil.rmtree(self._state / name, ignore_errors=True)

    # What operators do.

    def kubectl(self, *words: str, stdin: str | None = None) -> str:
        return self._tool("kubectl", *words, stdin=stdin)

    def helm(self, *words: str) -> str:
        return self._tool("helm", *words)

    def program(self, *words: str) -> str:
        """The program itself, on the operator's own machine."""
        process = subprocess.run([self._program, *words], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        require(process.returncode == 0, f"{words!r} ended with {process.returncode}: {process.stdout}")
        return process.stdout

    def apply(self, *manifests: Object) -> None:
        self.kubectl("apply", "--filename=-", stdin="\n---\n".join(json.dumps(manifest) for manifest in manifests))

    def spawn(self, tool: str, *words: str) -> subprocess.Popen[str]:
        """Begins something that lasts; `finish` waits for it."""
        return subprocess.Popen(
            [self._binaries / tool, *words],
            env=self._environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def finish(self, process: subprocess.Popen[str], stdin: str | None = None) -> str:
        """Waits until it has ended well; what it said."""
        while True:
            try:
                output, _ = process.communicate(stdin, timeout=PAUSE_SECONDS)
                break
            except subprocess.TimeoutExpired:
                stdin = None
                self.require_running()
        require(process.returncode == 0, f"{process.args!r} ended with {process.returncode}: {output}")
        return output

    def _tool(self, tool: str, *words: str, stdin: str | None = None) -> str:
        return self.finish(self.spawn(tool, *words), stdin)

    def cut_power(self) -> None:
        """Takes the power from all nodes for a moment."""
        assert self._kubelet is not None
        self._kubelet.send_signal(signal.SIGUSR1)

    # Waiting.

    def eventually(self, words: str, holds: Callable[[], Any], seconds: float = LIMIT_SECONDS) -> Any:
        """Waits until it holds; what it returned."""
        end = time.monotonic() + seconds
        while not (result := holds()):
            self.require_running()
            require(time.monotonic() < end, f"not within {seconds:.0f} s: {words}")
            time.sleep(PAUSE_SECONDS)
        return result

    def require_running(self) -> None:
        self._plane.require_running()
        if self._kubelet is not None:
            require(self._kubelet.poll() is None, f"the kubelet ended, see {self._state / 'kubelet.log'}")

    # Nodes and volumes.

    def _ready_nodes(self) -> list[str]:
        """Those that pods are sent to."""
        nodes = raw(self.api.core.list_node)["items"]
        return [node["metadata"]["name"] for node in nodes if not node["spec"].get("taints")]

    def _make_volumes(self) -> None:
        """A stock of empty volumes. There is no provisioner, so they are there before anybody claims one."""
        self.apply(
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {
                    "name": STORAGE_CLASS,
                    "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
                },
                "provisioner": "kubernetes.io/no-provisioner",
                "volumeBindingMode": "Immediate",
                "reclaimPolicy": "Retain",
            },
            *(self._volume(number) for number in range(VOLUMES)),
        )
        self.eventually("all volumes are available", self._all_available)

    def _volume(self, number: int) -> Object:
        folder = self._state / "volumes" / f"volume-{number}"
        # As it comes from mkfs: root's, and with a folder in it that nobody else may look into.
        (folder / "lost+found").mkdir(parents=True)
        (folder / "lost+found").chmod(0o700)
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": folder.name},
            "spec": {
                "capacity": {"storage": "100Gi"},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": STORAGE_CLASS,
                "hostPath": {"path": str(folder)},
            },
        }

    def _all_available(self) -> bool:
        volumes = raw(self.api.core.list_persistent_volume)["items"]
        return len(volumes) == VOLUMES and all(each["status"].get("phase") == "Available" for each in volumes)

    def folder_of(self, claim: str) -> pathlib.Path:
        """Where the volume is that this claim is given, once it is."""

        def volume() -> str:
            found = raw(self.api.core.read_namespaced_persistent_volume_claim, claim, "default")
            return str(found["spec"].get("volumeName", "")) if found.get("status", {}).get("phase") == "Bound" else ""

        return self._state / "volumes" / str(self.eventually(f"the claim {claim} is bound", volume))

    def destroy_volume(self, name: str) -> None:
        """The disk is gone, with all that was on it."""
        self.kubectl("delete", "persistentvolume", name)
        shutil.rmtree(self._state / "volumes" / name)

    def logs(self, namespace: str) -> list[pathlib.Path]:
        """What containers said: a folder for each pod, in it a file for each run of a container."""
        return list((self._state / "logs" / namespace).glob("*/*.log"))

    # What to look at when something went wrong.

    def diagnose(self) -> None:
        kinds = "nodes,statefulsets,jobs,pods,persistentvolumeclaims,poddisruptionbudgets"
        for words in (
            ["get", kinds, "--all-namespaces", "--output=wide"],
            ["get", "events", "--all-namespaces", "--sort-by=.metadata.creationTimestamp"],
        ):
            try:
                self._show(self.kubectl(*words))
            except Failure as failure:
                print(failure)
        newest = sorted((self._state / "logs").rglob("*.log"), key=lambda log: log.stat().st_mtime)[-LOGS:]
        for log in newest:
            print(f"\n{log.relative_to(self._state)}")
            self._show(log.read_text(errors="replace"))
        print(f"\nAll logs are in {self._state}.", flush=True)

    @staticmethod
    def _show(text: str) -> None:
        for line in text.splitlines()[-LINES:]:
            print(line[:WIDTH])
