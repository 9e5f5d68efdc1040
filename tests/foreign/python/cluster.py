"""A cluster as the proofs see it: its nodes, and what failing calls say."""

from __future__ import annotations

import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

# grpcio-tools looks for the contract where Python looks for modules, and generates messages and stubs in memory.
sys.path.append(str(pathlib.Path(__file__).resolve().parents[3] / "proto"))
api: Any
services: Any
api, services = grpc.protos_and_services("mokv/v1/kv.proto")

# What has not come about by then never will.
LIMIT_SECONDS = 100.0
PAUSE_SECONDS = 0.1
# Above what a node allows itself, so that it is the node that gives up, and says why.
CALL_SECONDS = 30.0

OPTIONS = [
    # A node that comes back is to be noticed soon.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Nodes are asked directly, whatever proxy the surroundings name.
    ("grpc.enable_http_proxy", 0),
]

T = TypeVar("T")
P = ParamSpec("P")


class Failure(Exception):
    """A proof failed."""


def require(holds: bool, words: str) -> None:
    if not holds:
        raise Failure(words)


def equal(what: str, got: object, want: object) -> None:
    require(got == want, f"{what} is {got!r}, not {want!r}")


def eventually(prove: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Tries until it succeeds: what comes about by itself comes in its own time."""
    end = time.monotonic() + LIMIT_SECONDS
    while True:
        try:
            return prove(*args, **kwargs)
        except (Failure, grpc.RpcError) as error:
            if time.monotonic() > end:
                raise Failure(f"not within {LIMIT_SECONDS} s: {error}") from error
        time.sleep(PAUSE_SECONDS)


class Refusal:
    """What a call says that fails."""

    def __init__(self, error: grpc.RpcError) -> None:
        self.error = error
        self.code: grpc.StatusCode = error.code()
        self.metadata: dict[str, str] = dict(error.trailing_metadata() or ())

    def __str__(self) -> str:
        return f"{self.code.name} {self.error.details()!r} {self.metadata}"

    def details(self) -> list[Any]:
        """The details in google.rpc.Status, not unpacked."""
        status = rpc_status.from_call(self.error)
        return list(status.details) if status else []


def refused(call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> Refusal:
    """Makes a call that must fail."""
    try:
        answer = call(*args, **kwargs)
    except grpc.RpcError as error:
        return Refusal(error)
    raise Failure(f"there is an answer where there should be none: {answer}")


class Node:
    """A connection to one node and no other."""

    def __init__(self, address: str) -> None:
        self.address = address
        channel = grpc.insecure_channel(address, OPTIONS)
        self._kv = services.KVStub(channel)
        self._health = health_pb2_grpc.HealthStub(channel)

    def get(self, key: bytes, **fields: Any) -> Any:
        return self._call(self._kv.Get, api.GetRequest(key=key, **fields))

    def set(self, key: bytes, value: bytes, **fields: Any) -> int:
        """Writes; the revision."""
        answer = self._call(self._kv.Set, api.SetRequest(key=key, value=value, **fields))
        require(answer.ok, "the answer to a set is not ok")
        return int(answer.revision)

    def delete(self, key: bytes, **fields: Any) -> Any:
        return self._call(self._kv.Delete, api.DeleteRequest(key=key, **fields))

    def entries(self, **fields: Any) -> tuple[list[Any], int]:
        """The entries of a listing, and the revision in its header."""
        stream = self._call(self._kv.List, api.ListRequest(**fields))
        entries = list(stream)
        return entries, int(dict(stream.initial_metadata())["mokv-revision"])

    def servers(self) -> list[Any]:
        return list(self._call(self._kv.GetServers, api.GetServersRequest()).servers)

    def health(self, service: str) -> str:
        answer = self._call(self._health.Check, health_pb2.HealthCheckRequest(service=service))
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    def require_health(self, service: str, want: str) -> None:
        equal(f"the health of {service!r} at {self.address}", self.health(service), want)

    @staticmethod
    def _call(method: Any, request: Any) -> Any:
        return method(request, timeout=CALL_SECONDS, wait_for_ready=True)
