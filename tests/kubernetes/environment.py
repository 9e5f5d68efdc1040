"""The environment and the arguments of a container, from all the places that a pod can name."""

from __future__ import annotations

import base64
import re
from typing import Any

from kubernetes.client import ApiException

from api import Api, Object, raw
from image import Image
from unsupported import Unsupported

REFERENCE = re.compile(r"\$(?:\$|\(([A-Za-z_.][-A-Za-z0-9_.]*)\))")


class Missing(Exception):
    """A config map, a secret or a key in it that the pod needs is not there. It may yet come."""


def field(pod: Object, address: str, path: str) -> str:
    """The downward API: what a pod may know of itself."""
    metadata, spec = pod["metadata"], pod["spec"]
    simple = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": spec["nodeName"],
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.podIP": address,
        "status.podIPs": address,
    }
    if path in simple:
        return str(simple[path])
    if match := re.fullmatch(r"metadata\.(labels|annotations)\['(.*)'\]", path):
        return str(metadata.get(match[1], {}).get(match[2], ""))
    raise Unsupported(f"fieldRef {path}")


def config_map(api: Api, namespace: str, name: str, optional: bool) -> dict[str, bytes]:
    try:
        found = raw(api.core.read_namespaced_config_map, name, namespace)
    except ApiException as error:
        return _absent(error, optional, f"configmap {name!r} not found")
    binary = {key: base64.b64decode(value) for key, value in found.get("binaryData", {}).items()}
    return {key: value.encode() for key, value in found.get("data", {}).items()} | binary


def secret(api: Api, namespace: str, name: str, optional: bool) -> dict[str, bytes]:
    try:
        found = raw(api.core.read_namespaced_secret, name, namespace)
    except ApiException as error:
        return _absent(error, optional, f"secret {name!r} not found")
    return {key: base64.b64decode(value) for key, value in found.get("data", {}).items()}


def _absent(error: ApiException, optional: bool, words: str) -> dict[str, bytes]:
    if error.status != 404:
        raise error
    if not optional:
        raise Missing(words)
    return {}


def service_links(api: Api, pod: Object) -> dict[str, str]:
    """The variables that name the services of the namespace, unless the pod does not want them.

    They are easily forgotten, and they collide with those of a program that has the same name as its Service.
    """
    services = raw(api.core.list_namespaced_service, "default")["items"]
    services = [service for service in services if service["metadata"]["name"] == "kubernetes"]
    if pod["spec"].get("enableServiceLinks", True):
        services += raw(api.core.list_namespaced_service, pod["metadata"]["namespace"])["items"]
    variables: dict[str, str] = {}
    for service in services:
        address, ports = service["spec"].get("clusterIP"), service["spec"].get("ports")
        if not ports or address in (None, "", "None"):
            continue
        name = service["metadata"]["name"].upper().replace("-", "_")
        variables[f"{name}_SERVICE_HOST"] = address
        variables[f"{name}_SERVICE_PORT"] = str(ports[0]["port"])
        for port in ports:
            if "name" in port:
                variables[f"{name}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"] = str(port["port"])
            protocol = port.get("protocol", "TCP")
            url = f"{protocol.lower()}://{address}:{port['port']}"
            variables.setdefault(f"{name}_PORT", url)
            prefix = f"{name}_PORT_{port['port']}_{protocol}"
            parts = {"": url, "_PROTO": protocol.lower(), "_PORT": str(port["port"]), "_ADDR": address}
            variables |= {prefix + suffix: value for suffix, value in parts.items()}
    return variables


def expand(text: str, variables: dict[str, str]) -> str:
    """`$(NAME)` is the variable, if there is one; `$$` is a dollar."""

    def value(match: re.Match[str]) -> str:
        return "$" if match[1] is None else variables.get(match[1], match[0])

    return REFERENCE.sub(value, text)


def environment(api: Api, pod: Object, container: Object, address: str, image: Image) -> dict[str, str]:
    namespace = pod["metadata"]["namespace"]
    variables = image.environment | {"HOSTNAME": pod["metadata"]["name"]} | service_links(api, pod)
    for source in container.get("envFrom", []):
        prefix = source.get("prefix", "")
        for kind, read in (("configMapRef", config_map), ("secretRef", secret)):
            if reference := source.get(kind):
                values = read(api, namespace, reference["name"], reference.get("optional", False))
                variables |= {prefix + key: value.decode() for key, value in values.items()}
    for entry in container.get("env", []):
        if "valueFrom" in entry:
            found = _value_from(api, pod, address, entry["valueFrom"])
            if found is not None:
                variables[entry["name"]] = found
        else:
            variables[entry["name"]] = expand(entry.get("value", ""), variables)
    return variables


def _value_from(api: Api, pod: Object, address: str, source: Object) -> str | None:
    if "fieldRef" in source:
        return field(pod, address, source["fieldRef"]["fieldPath"])
    for kind, read in (("configMapKeyRef", config_map), ("secretKeyRef", secret)):
        if reference := source.get(kind):
            optional = reference.get("optional", False)
            values = read(api, pod["metadata"]["namespace"], reference["name"], optional)
            if reference["key"] in values:
                return values[reference["key"]].decode()
            if optional:
                return None
            raise Missing(f"there is no key {reference['key']!r} in {reference['name']!r}")
    raise Unsupported(f"valueFrom {', '.join(source)}")


def arguments(container: Object, image: Image, variables: dict[str, str]) -> list[str]:
    """As the API has it: a command replaces the image's entrypoint and its command, arguments only the latter."""
    given: Any = container.get("args")
    if "command" in container:
        words = container["command"] + (given or [])
    else:
        words = image.entrypoint + (image.command if given is None else given)
    return [expand(word, variables) for word in words]
