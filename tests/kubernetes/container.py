"""One container of a pod: its runs, its probes, its hooks, and what is to be reported of it."""

from __future__ import annotations

import datetime
import pathlib
import threading
import time
import typing
from signal import SIGKILL, SIGTERM

from kubernetes.client import ApiException

import environment
import probes
from api import Object
from runtime import Description, Mount, Process, StartError
from unsupported import Unsupported

if typing.TYPE_CHECKING:
    from pod import Pod

# The first restart comes at once, the next ones after 10 s, 20 s, ... of waiting, until a run has lasted long enough.
FIRST_BACKOFF, LONGEST_BACKOFF, LONG_RUN = 10.0, 300.0, 600.0
# What a missing secret or a refusal of the API server costs.
RETRY_SECONDS = 2.0
# What is left for SIGTERM when a hook has used up the grace period.
SHORTEST_GRACE = 2.0
# At most as much of what a container leaves as its last words is kept.
LAST_WORDS = 4096

KNOWN = {
    *("name", "image", "imagePullPolicy", "command", "args", "workingDir", "ports", "env", "envFrom", "resources"),
    *("volumeMounts", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "securityContext"),
    *("terminationMessagePath", "terminationMessagePolicy"),
}
KNOWN_SECURITY = {
    *("runAsUser", "runAsGroup", "runAsNonRoot", "fsGroup", "fsGroupChangePolicy", "supplementalGroups"),
    *("capabilities", "allowPrivilegeEscalation", "readOnlyRootFilesystem", "privileged", "seccompProfile"),
}


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Container:
    def __init__(self, pod: Pod, spec: Object, is_init: bool) -> None:
        self.pod, self.spec, self.name = pod, spec, str(spec["name"])
        self._is_init = is_init
        self._policy = pod.manifest["spec"].get("restartPolicy", "Always")
        self._runs = 0
        self._backoff = 0.0
        self._state: Object = {"waiting": {"reason": "PodInitializing" if not is_init else "ContainerCreating"}}
        self._last_state: Object = {}
        self._process: Process | None = None
        self._exited = threading.Event()
        self._started = threading.Event()
        self._ready = False
        self._lock = threading.Lock()

    # What is reported.

    @property
    def ready(self) -> bool:
        return self._ready

    @property
    def exit_code(self) -> int | None:
        """Of a container that has ended and does not run again by itself."""
        return typing.cast("int | None", self._state.get("terminated", {}).get("exitCode"))

    def status(self) -> Object:
        return {
            "name": self.name,
            "image": self.spec["image"],
            "imageID": "",
            "containerID": f"process://{self.pod.uid}/{self.name}/{self._runs}" if self._runs else "",
            "ready": self._ready,
            "started": self._started.is_set(),
            "restartCount": max(self._runs - 1, 0),
            "state": self._state,
            "lastState": self._last_state,
        }

    def _enter(self, state: Object) -> None:
        if "terminated" in self._state:
            self._last_state = self._state
        self._state = state
        self.pod.changed.set()

    # Running.

    def run(self) -> bool:
        """Runs it, again and again if its pod says so, until it has ended for good; whether it ended well."""
        while not self.pod.halt.is_set():
            began = time.monotonic()
            code = self._run_once()
            if self.pod.halt.is_set():
                break
            if code is not None:
                if self._policy == "Never" or (code == 0 and (self._is_init or self._policy == "OnFailure")):
                    break
                self._back_off(time.monotonic() - began)
        return self.exit_code == 0

    def _back_off(self, lasted: float) -> None:
        if lasted > LONG_RUN:
            self._backoff = 0.0
        if self._backoff:
            words = f"back-off {self._backoff:.0f}s restarting failed container={self.name} pod={self.pod.name}"
            self._enter({"waiting": {"reason": "CrashLoopBackOff", "message": words}})
            self.pod.event("Warning", "BackOff", words)
            self.pod.halt.wait(self._backoff)
        self._backoff = min(max(2 * self._backoff, FIRST_BACKOFF), LONGEST_BACKOFF)

    def _run_once(self) -> int | None:
        """Runs it once; its exit code, or nothing if it was not even started."""
        try:
            description = self._describe()
            log = self.pod.logs / f"{self.name}.{self._runs}.log"
            with self._lock:
                self._runs += 1
                self._exited.clear()
                self._process = process = Process(description, log)
        except Unsupported as error:
            # Nothing will change that, so there is nothing to wait for but the end of the pod.
            self._refuse(f"this kubelet does not know {error}")
            self.pod.halt.wait()
            return None
        except (environment.Missing, ApiException) as error:
            self._refuse(str(error))
            self.pod.halt.wait(RETRY_SECONDS)
            return None
        except StartError as error:
            self.pod.event("Warning", "Failed", f"container {self.name} did not start: {error}")
            ended = {"exitCode": 128, "reason": "StartError", "message": str(error)}
            self._enter({"terminated": ended | {"startedAt": now(), "finishedAt": now()}})
            return 128
        begun = now()
        self._enter({"running": {"startedAt": begun}})
        self.pod.event("Normal", "Started", f"container {self.name} started")
        if self.pod.halt.is_set():
            threading.Thread(target=self.stop, daemon=True).start()
        probers = self._probe()
        code = process.wait()
        for prober in probers:
            prober.end()
        self._exited.set()
        self._ready = False
        self._started.clear()
        ended = {"exitCode": code, "reason": "Error" if code else "Completed", "message": self._last_words(log)}
        self._enter({"terminated": ended | {"startedAt": begun, "finishedAt": now()}})
        return code

    def _refuse(self, words: str) -> None:
        self.pod.event("Warning", "Failed", words)
        self._enter({"waiting": {"reason": "CreateContainerConfigError", "message": words}})

    def _describe(self) -> Description:
        spec, pod, image = self.spec, self.pod, self.pod.image
        if unknown := spec.keys() - KNOWN:
            raise Unsupported(f"{', '.join(sorted(unknown))} of a container")
        if "postStart" in spec.get("lifecycle", {}):
            raise Unsupported("postStart of a container")
        security = pod.manifest["spec"].get("securityContext", {}) | spec.get("securityContext", {})
        if unknown := security.keys() - KNOWN_SECURITY:
            raise Unsupported(f"{', '.join(sorted(unknown))} of a security context")
        capabilities = security.get("capabilities", {})
        if security.get("privileged") or capabilities.get("add") or capabilities.get("drop", ["ALL"]) != ["ALL"]:
            raise Unsupported("privileges, and single capabilities")
        uid = security.get("runAsUser", image.uid)
        if security.get("runAsNonRoot") and uid == 0:
            raise environment.Missing("container has runAsNonRoot and image will run as root")
        groups = set(security.get("supplementalGroups", []))
        if "fsGroup" in security:
            groups.add(security["fsGroup"])
        variables = environment.environment(pod.api, pod.manifest, spec, pod.sandbox.address, image)
        return Description(
            image=str(image.root),
            scratch=str(pod.folder / "scratch" / f"{self.name}.{self._runs}"),
            network=str(pod.sandbox.path),
            hostname=pod.manifest["spec"].get("hostname", pod.name),
            mounts=self._mounts(),
            read_only_root=security.get("readOnlyRootFilesystem", False),
            uid=uid,
            gid=security.get("runAsGroup", image.gid if uid == image.uid else 0),
            groups=sorted(groups),
            drop_capabilities="drop" in capabilities,
            no_new_privileges=not security.get("allowPrivilegeEscalation", True),
            arguments=environment.arguments(spec, image, variables),
            environment=variables,
            directory=spec.get("workingDir", image.directory),
        )

    def _mounts(self) -> list[Mount]:
        mounts = [Mount(str(file), f"/etc/{file.name}", read_only=False) for file in self.pod.name_files()]
        for entry in self.spec.get("volumeMounts", []):
            source, read_only = self.pod.volumes.source(entry["name"])
            if "subPathExpr" in entry:
                raise Unsupported("subPathExpr of a volume mount")
            if "subPath" in entry:
                source = source / entry["subPath"]
                if not source.exists():
                    source.mkdir(parents=True)
            mounts.append(Mount(str(source), entry["mountPath"], read_only or entry.get("readOnly", False)))
        self._words().write_text("")
        self._words().chmod(0o666)
        mounts.append(Mount(str(self._words()), self.spec.get("terminationMessagePath", "/dev/termination-log"), False))
        return mounts

    def _words(self) -> pathlib.Path:
        return self.pod.folder / f"{self.name}.words"

    def _last_words(self, log: pathlib.Path) -> str:
        words = self._words().read_text(errors="replace")
        if not words and self.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            words = log.read_text(errors="replace")[-LAST_WORDS:]
        return words[:LAST_WORDS]

    # Asking how it is.

    def _probe(self) -> list[probes.Prober]:
        """Starts its probes. The others wait for the startup probe, if there is one."""
        at_once = threading.Event()
        at_once.set()
        probers = []
        if "startupProbe" in self.spec:
            probers.append(self._prober("startup", at_once, self._startup_verdict))
        else:
            self._started.set()
        if "livenessProbe" in self.spec:
            probers.append(self._prober("liveness", self._started, self._liveness_verdict))
        if "readinessProbe" in self.spec:
            probers.append(self._prober("readiness", self._started, self._readiness_verdict))
        else:
            threading.Thread(target=self._ready_when_started, daemon=True).start()
        for prober in probers:
            prober.start()
        return probers

    def _prober(self, kind: str, begin: threading.Event, verdict: typing.Callable[[bool, str], None]) -> probes.Prober:
        def failure(words: str) -> None:
            self.pod.event("Warning", "Unhealthy", f"{kind} probe failed: {words}")

        return probes.Prober(self.spec[f"{kind}Probe"], self._ask, begin, verdict, failure)

    def _ask(self, probe: Object) -> tuple[bool, str]:
        ports = {port["name"]: port["containerPort"] for port in self.spec.get("ports", []) if "name" in port}
        assert self._process is not None
        return probes.attempt(probe, self.pod.sandbox.address, ports, self._process.execute)

    def _ready_when_started(self) -> None:
        while not self._exited.is_set():
            if self._started.wait(0.1):
                self._readiness_verdict(True, "")
                return

    def _startup_verdict(self, well: bool, words: str) -> None:
        if not well:
            self._give_up("startup", words)
        elif not self._exited.is_set():
            self._started.set()
            self.pod.changed.set()

    def _liveness_verdict(self, well: bool, words: str) -> None:
        if not well:
            self._give_up("liveness", words)

    def _readiness_verdict(self, well: bool, _words: str) -> None:
        self._ready = well and not self._exited.is_set()
        self.pod.changed.set()

    def _give_up(self, kind: str, words: str) -> None:
        if self.pod.halt.is_set():
            return
        self.pod.event(
            "Normal", "Killing", f"container {self.name} failed its {kind} probe, will be restarted: {words}"
        )
        seconds = self.spec[f"{kind}Probe"].get("terminationGracePeriodSeconds", self.pod.grace)
        self.stop(time.monotonic() + seconds)

    # Stopping.

    def stop(self, deadline: float | None = None) -> None:
        """Its hook, SIGTERM, and at the deadline SIGKILL; returns when it is gone. The pod's deadline may yet move."""
        with self._lock:
            process = self._process
        if process is None or self._exited.is_set():
            return

        def late(more: float = 0.0) -> bool:
            return time.monotonic() > max(deadline or self.pod.deadline, more)

        if hook := self.spec.get("lifecycle", {}).get("preStop"):
            self._hook(hook, late)
        process.signal(SIGTERM)
        shortest = time.monotonic() + SHORTEST_GRACE if hook else 0.0
        while not self._exited.wait(0.1):
            if late(shortest):
                self.pod.event("Warning", "Killing", f"container {self.name} outlived its grace period: SIGKILL")
                process.signal(SIGKILL)
                self._exited.wait()

    def _hook(self, hook: Object, late: typing.Callable[[], bool]) -> None:
        """Runs what comes before SIGTERM, and leaves it alone when the grace period is over."""

        def run() -> None:
            if "sleep" in hook:
                time.sleep(hook["sleep"]["seconds"])
            else:
                well, words = self._ask(hook | {"timeoutSeconds": LONGEST_BACKOFF})
                if not well:
                    self.pod.event("Warning", "FailedPreStopHook", words)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        while thread.is_alive() and not late() and not self._exited.is_set():
            thread.join(0.1)

    def kill(self) -> None:
        """SIGKILL, without asking anybody."""
        with self._lock:
            if self._process is not None and not self._exited.is_set():
                self._process.signal(SIGKILL)
