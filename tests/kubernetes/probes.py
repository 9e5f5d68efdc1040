"""Probes: asking a container how it is, as often as its pod says."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable

import grpc

from api import Object
from unsupported import Unsupported

# What grpc.health.v1.HealthCheckResponse is on the wire when its status is SERVING.
SERVING = b"\x08\x01"


def attempt(
    probe: Object, address: str, ports: dict[str, int], execute: Callable[..., tuple[bool, str]]
) -> tuple[bool, str]:
    """Asks once; whether it is well, and why not."""
    seconds = probe.get("timeoutSeconds", 1)
    try:
        if "httpGet" in probe:
            return _http(probe["httpGet"], address, ports, seconds)
        if "tcpSocket" in probe:
            socket.create_connection((address, _port(probe["tcpSocket"], ports)), seconds).close()
            return True, ""
        if "grpc" in probe:
            return _grpc(probe["grpc"], address, seconds)
        if "exec" in probe:
            return execute(probe["exec"]["command"], seconds)
    except (OSError, http.client.HTTPException, grpc.RpcError) as error:
        return False, f"{type(error).__name__}: {error}"
    raise Unsupported(f"a probe with {', '.join(probe)}")


def _port(action: Object, ports: dict[str, int]) -> int:
    port = action["port"]
    return ports[port] if port in ports else int(port)


def _http(action: Object, address: str, ports: dict[str, int], seconds: float) -> tuple[bool, str]:
    if action.get("scheme", "HTTP") != "HTTP":
        raise Unsupported("a probe by HTTPS")
    headers = {header["name"]: header["value"] for header in action.get("httpHeaders", [])}
    connection = http.client.HTTPConnection(action.get("host") or address, _port(action, ports), timeout=seconds)
    with contextlib.closing(connection):
        connection.request("GET", action.get("path", "/"), headers=headers)
        answer = connection.getresponse()
        body = answer.read(1024).decode(errors="replace").strip()
        return 200 <= answer.status < 400, f"{answer.status} {body}"


def _grpc(action: Object, address: str, seconds: float) -> tuple[bool, str]:
    service = action.get("service", "").encode()
    request = b"\x0a" + bytes([len(service)]) + service if service else b""
    with grpc.insecure_channel(f"{address}:{action['port']}", [("grpc.enable_http_proxy", 0)]) as channel:
        answer = channel.unary_unary("/grpc.health.v1.Health/Check")(request, timeout=seconds)
    return answer == SERVING, f"answer {answer.hex()}"


class Prober(threading.Thread):
    """One probe of one run of a container. It says what changed, and ends when it is told to."""

    def __init__(
        self,
        probe: Object,
        ask: Callable[[Object], tuple[bool, str]],
        begin: threading.Event,
        verdict: Callable[[bool, str], None],
        failure: Callable[[str], None],
    ) -> None:
        """Waits for `begin`; calls `verdict` whenever the threshold for well or unwell is reached."""
        super().__init__(daemon=True)
        self._probe, self._ask, self._begin = probe, ask, begin
        self._verdict, self._failure = verdict, failure
        self._end = threading.Event()

    def end(self) -> None:
        self._end.set()

    def run(self) -> None:
        period = self._probe.get("periodSeconds", 10)
        while not self._begin.wait(0.1):
            if self._end.is_set():
                return
        if self._end.wait(self._probe.get("initialDelaySeconds", 0)):
            return
        thresholds = {True: self._probe.get("successThreshold", 1), False: self._probe.get("failureThreshold", 3)}
        last, times = None, 0
        while not self._end.is_set():
            well, words = self._ask(self._probe)
            if self._end.is_set():
                return
            times = times + 1 if well == last else 1
            last = well
            if not well:
                self._failure(words)
            if times == thresholds[well]:
                self._verdict(well, words)
            if self._end.wait(period):
                return
