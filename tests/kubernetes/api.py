"""The connection to the API server. Objects stay what they are on the wire, dictionaries with the fields' own names."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import urllib3
from kubernetes import client, config

Object = dict[str, Any]

# What the kubelet sends as changes of a status: lists of conditions are merged by their type, as the API means it.
STRATEGIC = "application/strategic-merge-patch+json"


class Api:
    """The clients that are needed here, on one connection pool. They take dictionaries, whatever their types say."""

    core: Any
    apps: Any
    leases: Any
    slices: Any

    def __init__(self, kubeconfig: str) -> None:
        configuration = client.Configuration()
        config.load_kube_config(kubeconfig, client_configuration=configuration)  # type: ignore[no-untyped-call]
        # Every watch holds a connection, and every pod reports from a thread of its own.
        configuration.connection_pool_maxsize = 64
        connection = client.ApiClient(configuration)
        self.core = client.CoreV1Api(connection)
        self.apps = client.AppsV1Api(connection)
        self.leases = client.CoordinationV1Api(connection)
        self.slices = client.DiscoveryV1Api(connection)


def raw(function: Callable[..., Any], *arguments: Any, **options: Any) -> Object:
    """Makes a call, and returns the object of the answer as it was sent."""
    answer: Object = json.loads(function(*arguments, _preload_content=False, **options).data)
    return answer


def follow(function: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[tuple[str, list[Object]]]:
    """All objects there are (`LIST`), then each one that changes (`ADDED`, `MODIFIED`, `DELETED`), for ever.

    When the connection ends or the server has forgotten where it was, there is another `LIST`.
    """
    while True:
        try:
            listing = raw(function, *arguments, **options)
            yield "LIST", listing["items"]
            version = listing["metadata"]["resourceVersion"]
            stream = function(
                *arguments, watch=True, resource_version=version, timeout_seconds=600, _preload_content=False, **options
            )
            with contextlib.closing(stream):
                for line in lines(stream):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        break
                    yield event["type"], [event["object"]]
        except (client.ApiException, urllib3.exceptions.HTTPError, OSError):
            time.sleep(1)


def lines(stream: Any) -> Iterator[bytes]:
    rest = b""
    for chunk in stream.stream(amt=None, decode_content=False):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from filter(None, whole)
