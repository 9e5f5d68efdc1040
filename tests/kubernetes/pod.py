"""One pod on one node, from the moment that the scheduler chose the node until nothing is left of it."""

from __future__ import annotations

import pathlib
import threading
import time
import typing

from kubernetes import client

from api import STRATEGIC, Api, Object
from container import Container, now
from environment import Missing
from image import Image
from network import GATEWAY, Sandbox
from unsupported import Unsupported
from volumes import Volumes

CLUSTER_DOMAIN = "cluster.local"
RETRY_SECONDS = 1.0
# Who is deleted by force gets as much, for nobody waits for it.
FORCED_GRACE = 2.0
# Fields of a pod that would change what its containers see, and that are not looked at here.
REFUSED = (
    *("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "dnsConfig", "hostAliases", "readinessGates"),
    *("ephemeralContainers", "activeDeadlineSeconds", "setHostnameAsFQDN", "resourceClaims"),
)


class Pod:
    """Runs a pod, in threads of its own, until it is gone from the API server or has done its work."""

    def __init__(
        self, api: Api, image: Image, manifest: Object, state: pathlib.Path, event: typing.Callable[..., None]
    ) -> None:
        metadata = manifest["metadata"]
        self.api, self.image, self.manifest = api, image, manifest
        self.uid, self.namespace, self.name = (str(metadata[key]) for key in ("uid", "namespace", "name"))
        self.folder = state / "pods" / self.uid
        self.logs = state / "logs" / self.namespace / f"{self.name}-{self.uid[:8]}"
        self.grace = float(manifest["spec"].get("terminationGracePeriodSeconds", 30))
        self.deadline = float("inf")
        self.changed = threading.Event()
        # No container is to be started, for whatever reason.
        self.halt = threading.Event()
        self.volumes = Volumes(api, manifest, self.folder / "volumes")
        self._tell = event
        self._sandbox: Sandbox | None = None
        self._terminating = False
        self._over = threading.Event()
        self._last_report: Object = {}
        self._since: dict[str, tuple[str, str]] = {}
        spec = manifest["spec"]
        self._inits = [Container(self, container, True) for container in spec.get("initContainers", [])]
        self._mains = [Container(self, container, False) for container in spec["containers"]]
        self._initialized = not self._inits
        self._begun = now()
        self.folder.mkdir(parents=True)
        self.logs.mkdir(parents=True)

    @property
    def sandbox(self) -> Sandbox:
        assert self._sandbox is not None
        return self._sandbox

    def event(self, kind: str, reason: str, words: str) -> None:
        self._tell(self.manifest, kind, reason, words)

    # Its life.

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        # Nobody else reports, so that no report overtakes a later one.
        reporter = threading.Thread(target=self._report_until_over, daemon=True)
        reporter.start()
        try:
            while not self._terminating:
                self._live()
                if not self.halt.is_set():
                    break
                if not self._terminating:
                    # The power is back: the same pod in a new sandbox, under another address.
                    self.halt.clear()
        finally:
            self._over.set()
            self.changed.set()
            reporter.join()
            self.volumes.remove()
        if self._terminating:
            self._forget()

    def _live(self) -> None:
        """Once through init containers and main containers, in one sandbox."""
        if not self._mount():
            return
        self._sandbox = Sandbox()
        self.changed.set()
        try:
            self._initialized = not self._inits
            for container in self._inits:
                if not container.run():
                    return
            self._initialized = True
            threads = [threading.Thread(target=container.run, daemon=True) for container in self._mains]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            self._sandbox.remove()

    def _mount(self) -> bool:
        """Waits for the volumes; whether they are there."""
        refused = [field for field in REFUSED if self.manifest["spec"].get(field)]
        while not self.halt.is_set():
            try:
                if refused:
                    raise Unsupported(", ".join(refused))
                self.volumes.mount()
                return True
            except Missing as error:
                self.event("Warning", "FailedMount", str(error))
                self.halt.wait(RETRY_SECONDS)
            except Unsupported as error:
                self.event("Warning", "FailedCreatePodSandBox", f"this kubelet does not know {error}")
                self.halt.wait()
        return False

    def terminate(self, seconds: float) -> None:
        """Begins its end, or makes it shorter."""
        self.deadline = min(self.deadline, time.monotonic() + seconds)
        if self._over.is_set():
            self._forget()
        if self._terminating or self._over.is_set():
            return
        self._terminating = True
        self.halt.set()
        self.event("Normal", "Killing", f"stopping {self.name} within {seconds:.0f} s")
        for container in self._inits + self._mains:
            threading.Thread(target=container.stop, daemon=True).start()

    # What a pod sees of a machine that loses power and comes back: first nothing, then another address.

    def unplug(self) -> None:
        """Nobody hears of it any more, nor of its end."""
        if self._has_power():
            self.halt.set()
            self.sandbox.unplug()

    def lose_power(self) -> None:
        if self._has_power():
            for container in self._inits + self._mains:
                container.kill()

    def _has_power(self) -> bool:
        return not self._over.is_set() and not self._terminating and self._sandbox is not None

    def _forget(self) -> None:
        """Lets the API server forget the pod, if it has not yet."""
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
        while True:
            try:
                self.api.core.delete_namespaced_pod(self.name, self.namespace, body=body, _preload_content=False)
                return
            except client.ApiException as error:
                # Not there, or another one.
                if error.status in (404, 409):
                    return
                print(f"{self.name} cannot be forgotten: {error}", flush=True)
                time.sleep(RETRY_SECONDS)

    # What it is told of the network.

    def name_files(self) -> list[pathlib.Path]:
        """Its `hosts`, `hostname` and `resolv.conf`, with its present address."""
        spec, address = self.manifest["spec"], self.sandbox.address
        host = spec.get("hostname", self.name)
        names = [host]
        if "subdomain" in spec:
            names.insert(0, f"{host}.{spec['subdomain']}.{self.namespace}.svc.{CLUSTER_DOMAIN}")
        search = f"{self.namespace}.svc.{CLUSTER_DOMAIN} svc.{CLUSTER_DOMAIN} {CLUSTER_DOMAIN}"
        contents = {
            "hosts": f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n{address}\t{' '.join(names)}\n",
            "hostname": f"{host}\n",
            "resolv.conf": f"search {search}\nnameserver {GATEWAY}\noptions ndots:5\n",
        }
        for file, content in contents.items():
            (self.folder / file).write_text(content)
        return [self.folder / file for file in contents]

    # What is reported.

    def _report_until_over(self) -> None:
        over = False
        while not over:
            self.changed.wait()
            self.changed.clear()
            over = self._over.is_set()
            while not self._report():
                time.sleep(RETRY_SECONDS)

    def _report(self) -> bool:
        """Sends the status, if it is another one; whether the API server has it."""
        status = self._status()
        if status == self._last_report:
            return True
        body = {"metadata": {"uid": self.uid}, "status": status}
        try:
            self.api.core.patch_namespaced_pod_status(
                self.name, self.namespace, body, _content_type=STRATEGIC, _preload_content=False
            )
        except client.ApiException as error:
            # Who is forgotten, or has a successor of the same name and another uid, has nothing to report.
            if error.status == 404 or "metadata.uid" in str(error.body):
                return True
            print(f"status of {self.name} refused: {error}", flush=True)
            return False
        self._last_report = status
        return True

    def _status(self) -> Object:
        phase = self._phase()
        done = phase in ("Succeeded", "Failed")
        ready = all(container.ready for container in self._mains) and not done
        conditions = {
            "PodReadyToStartContainers": self._sandbox is not None and not done,
            "Initialized": self._initialized,
            "ContainersReady": ready,
            "Ready": ready,
        }
        status: Object = {
            "phase": phase,
            "startTime": self._begun,
            "conditions": [self._condition(kind, holds) for kind, holds in conditions.items()],
            "initContainerStatuses": [container.status() for container in self._inits],
            "containerStatuses": [container.status() for container in self._mains],
            "hostIP": str(GATEWAY),
            "hostIPs": [{"ip": str(GATEWAY)}],
        }
        if self._sandbox is not None:
            # Merged by their values they would pile up.
            addresses = [{"$patch": "replace"}, {"ip": self._sandbox.address}]
            status |= {"podIP": self._sandbox.address, "podIPs": addresses}
        return status

    def _condition(self, kind: str, holds: bool) -> Object:
        value = str(holds)
        if self._since.get(kind, ("", ""))[0] != value:
            self._since[kind] = (value, now())
        return {"type": kind, "status": value, "lastTransitionTime": self._since[kind][1]}

    def _phase(self) -> str:
        if self._over.is_set():
            codes = [container.exit_code for container in self._inits + self._mains]
            return "Succeeded" if all(code == 0 for code in codes) else "Failed"
        return "Running" if self._initialized and self._sandbox is not None else "Pending"
