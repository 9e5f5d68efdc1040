"""Clients that never stop: they write, read, and know what they were promised.

Each writer has keys of its own and writes rising numbers to them, every write on condition of the revision that it
knows. So a write whose outcome is unknown cannot come true after a later one, and a key's value never goes back; a
reader may therefore demand at least what was acknowledged, or read, before it began to read.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc

from api import Api, Object, follow

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "proto"))
kv: Any
services: Any
kv, services = grpc.protos_and_services("mokv/v1/kv.proto")

WRITERS, READERS, KEYS_EACH = 4, 2, 8
CALL_SECONDS = 6.0
PAUSE_SECONDS = 0.01
RPC_PORT = 8400
# How often somebody is asked who is not ready, as by a client that has not heard of it.
STRAY = 0.05
OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
FINAL_SECONDS = 120.0
# A store that lost everything breaks a promise with every read.
MOST_TOLD = 20


@dataclasses.dataclass
class Key:
    """What is known of one key. Only its writer writes it; `lock` is for the readers."""

    name: str
    issued: int = 0
    acknowledged: int = 0
    acknowledgements: int = 0
    # The highest number that was acknowledged or read.
    floor: int = 0
    # Of the last write that is known to have happened; nothing: it has to be looked up.
    revision: int | None = 0
    # A write has no known outcome yet.
    in_doubt: bool = False
    # Numbers that a node said it never wrote.
    never: set[int] = dataclasses.field(default_factory=set)
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)


@dataclasses.dataclass
class Tally:
    """What came of one story."""

    restarts: int = 0
    operations: int = 0
    acknowledged: int = 0
    unknown: int = 0
    not_executed: int = 0
    longest_gap: float = 0.0
    least_ready: int = sys.maxsize


class Violation(Exception):
    """A promise was broken."""


class Witness:
    """The clients of one release. `violations` is to stay empty."""

    def __init__(self, api: Api, namespace: str, release: str, prefix: str = "") -> None:
        self._api, self._namespace = api, namespace
        self._selector = f"app.kubernetes.io/instance={release},app.kubernetes.io/name=mokv"
        self._keys = [
            [Key(f"{prefix}writer-{writer}/key-{number}") for number in range(KEYS_EACH)] for writer in range(WRITERS)
        ]
        self._pods: dict[str, Object] = {}
        self._stubs: dict[str, tuple[grpc.Channel, Any]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._clients: list[threading.Thread] = []
        self._seen: dict[str, set[str]] = {}
        self._last_acknowledged: float | None = None
        self.tally = Tally()
        self.violations: list[str] = []
        threading.Thread(target=self._follow_pods, daemon=True).start()

    # Stories.

    def begin(self) -> None:
        self.tally, self._last_acknowledged = Tally(), None
        self._stop.clear()
        every = [key for keys in self._keys for key in keys]
        work = [(self._write, keys) for keys in self._keys] + [(self._read, every)] * READERS
        self._clients = [threading.Thread(target=self._repeat, args=each, daemon=True) for each in work]
        for client in self._clients:
            client.start()

    def end(self) -> Tally:
        """Stops the clients, and reads every key once more at every pod."""
        self._stop.set()
        for client in self._clients:
            client.join()
        if self._last_acknowledged is not None:
            # Who has not written again by now has a gap that lasts until now.
            self._note_gap(time.monotonic())
        self._look_at_everything()
        return self.tally

    def watch_ready(self) -> None:
        """From now on the least number of pods that are ready at a time is of interest."""
        with self._lock:
            self.tally.least_ready = sum(is_ready for _, is_ready in self._addresses())

    def wait_for_writes(self, count: int) -> bool:
        """Whether that many more writes are acknowledged in good time."""
        want, end = self.tally.acknowledged + count, time.monotonic() + FINAL_SECONDS
        while self.tally.acknowledged < want and time.monotonic() < end:
            time.sleep(0.1)
        return self.tally.acknowledged >= want

    def _repeat(self, step: Callable[[Key], None], keys: list[Key]) -> None:
        for turn in itertools.count():
            if self._stop.wait(PAUSE_SECONDS):
                return
            step(keys[turn % len(keys)] if step == self._write else random.choice(keys))

    # Pods.

    def _follow_pods(self) -> None:
        for kind, pods in follow(self._api.core.list_namespaced_pod, self._namespace, label_selector=self._selector):
            with self._lock:
                if kind == "LIST":
                    self._pods.clear()
                for pod in pods:
                    owners = pod["metadata"].get("ownerReferences", [])
                    if all(owner["kind"] != "StatefulSet" for owner in owners):
                        continue
                    if kind == "DELETED":
                        self._pods.pop(pod["metadata"]["name"], None)
                    else:
                        self._pods[pod["metadata"]["name"]] = pod
                        self._count_starts(pod)
                addresses = {address for address, _ in self._addresses()}
                for address in self._stubs.keys() - addresses:
                    self._stubs.pop(address)[0].close()
                ready = sum(is_ready for _, is_ready in self._addresses())
                self.tally.least_ready = min(self.tally.least_ready, ready)

    def _count_starts(self, pod: Object) -> None:
        """Every process of a pod's name but its first one is a restart, in the same pod or in another."""
        for status in pod.get("status", {}).get("containerStatuses", []):
            process = status.get("containerID")
            seen = self._seen.setdefault(pod["metadata"]["name"], set())
            if process and process not in seen:
                self.tally.restarts += bool(seen)
                seen.add(process)

    def _addresses(self) -> list[tuple[str, bool]]:
        """Where pods are, and whether a Service would send anybody there."""
        found = []
        for pod in self._pods.values():
            if address := pod.get("status", {}).get("podIP"):
                conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", [])}
                ready = conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]
                found.append((address, ready))
        return found

    def _stub(self, address: str | None = None) -> Any:
        """A connection to this pod, or to any."""
        with self._lock:
            if address is None:
                known = self._addresses()
                ready = [address for address, is_ready in known if is_ready]
                chosen = [address for address, _ in known] if random.random() < STRAY or not ready else ready
                if not chosen:
                    return None
                address = random.choice(chosen)
            if address not in self._stubs:
                channel = grpc.insecure_channel(f"{address}:{RPC_PORT}", OPTIONS)
                self._stubs[address] = (channel, services.KVStub(channel))
            return self._stubs[address][1]

    # Writing.

    def _write(self, key: Key) -> None:
        stub = self._stub()
        if stub is None or (key.revision is None and not self._look_up(key, stub)):
            return
        with key.lock:
            key.issued += 1
            number = key.issued
        request = kv.SetRequest(key=key.name.encode(), value=str(number).encode(), if_revision=key.revision)
        self.tally.operations += 1
        try:
            answer = stub.Set(request, timeout=CALL_SECONDS)
        except (grpc.RpcError, ValueError) as error:
            self._not_written(key, number, error)
            return
        with key.lock:
            key.acknowledged = key.floor = number
            key.acknowledgements += 1
        key.revision, key.in_doubt = answer.revision, False
        self._acknowledged()

    def _acknowledged(self) -> None:
        present = time.monotonic()
        with self._lock:
            self.tally.acknowledged += 1
            self._note_gap(present)
            self._last_acknowledged = present

    def _note_gap(self, present: float) -> None:
        if self._last_acknowledged is not None:
            self.tally.longest_gap = max(self.tally.longest_gap, present - self._last_acknowledged)

    def _not_written(self, key: Key, number: int, error: Exception) -> None:
        """Tells the three outcomes apart. A channel that was closed meanwhile is a ValueError, and is doubt."""
        code = error.code() if isinstance(error, grpc.RpcError) else None
        metadata = dict(error.trailing_metadata() or ()) if isinstance(error, grpc.RpcError) else {}
        if metadata.get("mokv-outcome") == "none":
            self.tally.not_executed += 1
            with key.lock:
                key.never.add(number)
        elif code == grpc.StatusCode.FAILED_PRECONDITION:
            if not key.in_doubt:
                self._violated(
                    f"{key.name}: nobody else writes it, yet revision {key.revision} is not its last: {error}"
                )
            key.revision = None
            with key.lock:
                key.never.add(number)
        elif code == grpc.StatusCode.INVALID_ARGUMENT:
            self._violated(f"{key.name}: a right write was refused: {error}")
        else:
            self.tally.unknown += 1
            key.revision, key.in_doubt = None, True

    def _look_up(self, key: Key, stub: Any) -> bool:
        """Learns what became of a write of unknown outcome; whether that can be known now."""
        entry = self._get(key, stub)
        if entry is None:
            return False
        key.revision = entry.mod_revision
        return True

    # Reading.

    def _read(self, key: Key) -> None:
        if (stub := self._stub()) is not None:
            self._get(key, stub)

    def _get(self, key: Key, stub: Any) -> Any:
        """A linearizable read, judged; nothing if there was no answer."""
        with key.lock:
            floor = key.floor
        self.tally.operations += 1
        try:
            entry = stub.Get(kv.GetRequest(key=key.name.encode()), timeout=CALL_SECONDS)
        except (grpc.RpcError, ValueError) as error:
            if not isinstance(error, grpc.RpcError) or error.code() != grpc.StatusCode.NOT_FOUND:
                return None
            entry = kv.GetResponse(key=key.name.encode(), value=b"0")
        number = int(entry.value)
        with key.lock:
            if number < floor:
                self._violated(f"{key.name}: read {number} after {floor} was acknowledged or read")
            if number > key.issued:
                self._violated(f"{key.name}: read {number}, which nobody wrote (the last was {key.issued})")
            if number in key.never:
                self._violated(f"{key.name}: read {number}, which was said never to have been written")
            key.floor = max(key.floor, number)
        return entry

    def _look_at_everything(self) -> None:
        """Reads all keys at all pods that are ready. Every acknowledged write has raised a key's version by one."""
        with self._lock:
            ready = [address for address, is_ready in self._addresses() if is_ready]
        for address in ready:
            for key in (key for keys in self._keys for key in keys):
                entry = self._get_at_last(key, address)
                if entry is None:
                    self._violated(f"{key.name} cannot be read at {address}")
                elif not key.acknowledgements <= entry.version <= key.issued - len(key.never):
                    bounds = f"{key.acknowledgements} acknowledged, {key.issued} sent, {len(key.never)} never executed"
                    self._violated(f"{key.name} was written {entry.version} times ({bounds})")

    def _get_at_last(self, key: Key, address: str) -> Any:
        end = time.monotonic() + FINAL_SECONDS
        while time.monotonic() < end:
            entry = self._get(key, self._stub(address))
            if entry is not None:
                return entry
            time.sleep(0.1)
        return None

    def _violated(self, words: str) -> None:
        self.violations.append(words)
        if len(self.violations) <= MOST_TOLD:
            # One piece, so that what two threads say does not mix.
            print(f"VIOLATION  {words}\n", end="", flush=True)
