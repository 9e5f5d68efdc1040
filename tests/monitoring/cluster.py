"""A real cluster of three processes with a little load, and what has to run beside it."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

# However slow the machine is, this is enough; nothing is measured.
PATIENCE = 180.0

T = TypeVar("T")


class Failed(Exception):
    """Something that was waited for did not come."""


def wait_for(what: str, look: Callable[[], T | None]) -> T:
    """Looks again and again until there is something to see."""
    end = time.monotonic() + PATIENCE
    while True:
        if (seen := look()) is not None:
            return seen
        if time.monotonic() > end:
            raise Failed(f"waited {PATIENCE:.0f} s in vain: {what}")
        time.sleep(0.3)


def _is_free(port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A TCP port that nobody has now, below those that the system gives to connections."""
    while True:
        port = random.randrange(15000, 32000)
        if _is_free(port, socket.SOCK_STREAM):
            return port


def _free_base() -> int:
    """The first RPC port of three nodes; `mokv dev --help` says which ports follow from it."""
    while True:
        base = random.randrange(20000, 32000)
        tcp = [base, base + 2, base + 4, base - 4400, base - 4397, base - 4394]
        udp = [base + 1, base + 3, base + 5]
        if all(_is_free(port, socket.SOCK_STREAM) for port in tcp) and all(
            _is_free(port, socket.SOCK_DGRAM) for port in udp
        ):
            return base


class Node:
    """One node, as `mokv dev` told of it."""

    def __init__(self, name: str, pid: str, rpc: str, metrics: str) -> None:
        self.name, self.pid, self.rpc, self.metrics = name, int(pid), rpc, metrics


class Cluster:
    """`mokv dev` in a folder of its own."""

    ROW = re.compile(r"^(node-\d)\s+(\d+)\s+(\S+)\s+\S+\s+(\S+)\s", re.MULTILINE)

    def __init__(self, binary: Path, scratch: Path) -> None:
        self.binary, self.data = binary, scratch / "nodes"
        self.said = scratch / "dev.out"
        self.nodes: list[Node] = []
        self._stop = threading.Event()
        self._load = threading.Thread(target=self._make_load, daemon=True)
        command = [str(binary), "dev", "--data-dir", str(self.data), "--base-port", str(_free_base())]
        with self.said.open("w") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

    def start(self) -> None:
        """Returns when one node leads; then there is load until the end."""
        wait_for("a leader of the cluster", lambda: True if "leads." in self._output() else None)
        self.nodes = [Node(*row) for row in self.ROW.findall(self._output())]
        if len(self.nodes) != 3:
            raise Failed(f"'mokv dev' told of {len(self.nodes)} nodes:\n{self._output()}")
        self._load.start()

    def _output(self) -> str:
        if self.process.poll() is not None:
            raise Failed(f"'mokv dev' ended:\n{self.said.read_text()}")
        return self.said.read_text()

    def run(self, *arguments: str, node: int = 0) -> int:
        """A command of ours, asked of one node; its exit code."""
        command = [str(self.binary), *arguments, "--endpoints", self.nodes[node].rpc]
        quiet = subprocess.DEVNULL
        return subprocess.run(command, stdout=quiet, stderr=quiet, stdin=quiet, check=False).returncode

    def take_snapshot(self) -> None:
        wait_for("a snapshot", lambda: True if self.run("snapshot", "take") == 0 else None)

    def _make_load(self) -> None:
        """Each method and an answer that is not OK, through each node in turn."""
        turn = 0
        while not self._stop.is_set():
            node = turn % len(self.nodes)
            key = f"key-{turn % 50}"
            self.run("set", key, f"value {turn}", node=node)
            self.run("get", key, node=node)
            self.run("list", "--limit", "10", node=node)
            self.run("delete", key, node=node)
            self.run("get", key, node=node)
            turn += 1

    def end_load(self) -> None:
        self._stop.set()
        if self._load.ident is not None:
            self._load.join()

    def leader(self) -> Node | None:
        """Which node leads, by what the nodes say."""
        said = subprocess.run(
            [self.binary, "members", "--output", "plain", "--endpoints", ",".join(node.rpc for node in self.nodes)],
            capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
        ).stdout  # fmt: skip
        leaders = [line.split("\t")[0] for line in said.splitlines() if line.split("\t")[-1] == "leader"]
        return next((node for node in self.nodes if leaders == [node.name]), None)

    @staticmethod
    def kill(node: Node) -> None:
        os.kill(node.pid, signal.SIGKILL)

    def stop(self) -> None:
        self.end_load()
        stop(self.process)
        # If `mokv dev` had to be killed its nodes are still there.
        for node in self.nodes:
            if self._is_ours(node.pid):
                os.kill(node.pid, signal.SIGKILL)

    def _is_ours(self, pid: int) -> bool:
        try:
            return str(self.data).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False


def stop(process: subprocess.Popen[bytes]) -> None:
    """Asks a process to end, and ends it if it does not."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
