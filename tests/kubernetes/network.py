"""The pod network: one bridge, and for each pod a network namespace with an address that nobody had before."""

from __future__ import annotations

import ipaddress
import itertools
import pathlib
import subprocess
import threading

BRIDGE = "pods"
SUBNET = ipaddress.ip_network("10.244.0.0/16")
# The machine's own address on the bridge: where probes come from and where DNS is.
GATEWAY = SUBNET[1]
# The first one lies apart from the gateway, so that one sees at a glance which addresses are pods'.
FIRST_POD = 256

_numbers = itertools.count(1)
_lock = threading.Lock()


def ip(*arguments: str, lines: list[str] | None = None) -> None:
    """Runs iproute2, with a batch of lines if there are any."""
    command = ["ip", *arguments, *(["-batch", "-"] if lines else [])]
    result = subprocess.run(command, input="\n".join(lines or []), capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise OSError(f"{' '.join(command)} {lines or ''}: {result.stderr.strip()}")


def make_bridge() -> None:
    ip(
        lines=[
            "link set lo up",
            f"link add {BRIDGE} type bridge",
            f"addr add {GATEWAY}/{SUBNET.prefixlen} dev {BRIDGE}",
            f"link set {BRIDGE} up",
        ]
    )


class Sandbox:
    """The network namespace of one pod. Its containers share it; a new one has another address."""

    def __init__(self) -> None:
        with _lock:
            number = next(_numbers)
        self.name = f"pod{number}"
        self.address = str(SUBNET[FIRST_POD + number])
        ip("netns", "add", self.name)
        ip(
            lines=[
                f"link add {self.name} type veth peer name eth0 netns {self.name}",
                f"link set {self.name} master {BRIDGE} up",
            ]
        )
        ip(
            "-netns",
            self.name,
            lines=[
                "link set lo up",
                f"addr add {self.address}/{SUBNET.prefixlen} dev eth0",
                "link set eth0 up",
                f"route add default via {GATEWAY}",
            ],
        )

    @property
    def path(self) -> pathlib.Path:
        return pathlib.Path("/run/netns") / self.name

    def unplug(self) -> None:
        """Cuts the pod off without a word to anybody, as a machine does that loses power."""
        ip("link", "delete", self.name)

    def remove(self) -> None:
        ip("netns", "delete", self.name)
