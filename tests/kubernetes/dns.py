"""The cluster's DNS, as far as pods of a headless Service need it: addresses by EndpointSlices.

A name of a Service with an address of its own leads to the pods behind it that are ready. That stands in for the
addresses of Services, which take a kube-proxy.
"""

from __future__ import annotations

import random
import threading
from collections import defaultdict

from dnslib import QTYPE, RCODE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSLogger, DNSServer

from api import Api, Object, follow
from pod import CLUSTER_DOMAIN

PORT = 53
# What CoreDNS says by default.
TTL_SECONDS = 5
SERVICE = "kubernetes.io/service-name"


class Resolver(BaseResolver):  # type: ignore[misc]
    """Answers from the slices as they are now."""

    def __init__(self) -> None:
        self._slices: dict[tuple[str, str], Object] = {}
        self._services: set[str] = set()
        self._lock = threading.Lock()

    def follow_slices(self, api: Api) -> None:
        for kind, slices in follow(api.slices.list_endpoint_slice_for_all_namespaces):
            with self._lock:
                if kind == "LIST":
                    self._slices.clear()
                for entry in slices:
                    key = (entry["metadata"]["namespace"], entry["metadata"]["name"])
                    if kind == "DELETED":
                        self._slices.pop(key, None)
                    else:
                        self._slices[key] = entry

    def follow_services(self, api: Api) -> None:
        for kind, services in follow(api.core.list_service_for_all_namespaces):
            names = {f"{service['metadata']['name']}.{service['metadata']['namespace']}" for service in services}
            with self._lock:
                match kind:
                    case "LIST":
                        self._services = names
                    case "DELETED":
                        self._services -= names
                    case _:
                        self._services |= names

    def addresses(self) -> dict[str, set[str]]:
        """All names there are."""
        names: dict[str, set[str]] = defaultdict(set)
        with self._lock:
            # A Service without endpoints exists all the same: no addresses, and not "no such name".
            for service in self._services:
                names[f"{service}.svc.{CLUSTER_DOMAIN}"] = set()
            for (namespace, _), entry in self._slices.items():
                service = entry["metadata"].get("labels", {}).get(SERVICE)
                for endpoint in entry.get("endpoints") or []:
                    # Where a Service publishes addresses that are not ready, its slices call them ready.
                    if not endpoint.get("conditions", {}).get("ready", True):
                        continue
                    name = f"{service}.{namespace}.svc.{CLUSTER_DOMAIN}"
                    names[name].update(endpoint["addresses"])
                    if "hostname" in endpoint:
                        names[f"{endpoint['hostname']}.{name}"].update(endpoint["addresses"])
        return names

    def resolve(self, request: DNSRecord, _handler: object) -> DNSRecord:
        reply = request.reply()
        name = str(request.q.qname).rstrip(".").lower()
        names = self.addresses()
        if name not in names:
            reply.header.rcode = RCODE.NXDOMAIN
        elif request.q.qtype in (QTYPE.A, QTYPE.ANY):
            addresses = list(names[name])
            random.shuffle(addresses)
            for address in addresses:
                reply.add_answer(RR(request.q.qname, QTYPE.A, ttl=TTL_SECONDS, rdata=A(address)))
        return reply


def serve(api: Api, address: str) -> None:
    """Answers on the address from now on."""
    resolver = Resolver()
    for target in (resolver.follow_slices, resolver.follow_services):
        threading.Thread(target=target, args=[api], daemon=True).start()
    for tcp in (False, True):
        DNSServer(
            resolver, address=address, port=PORT, tcp=tcp, logger=DNSLogger(logf=lambda _words: None)
        ).start_thread()
