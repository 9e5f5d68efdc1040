"""What deploy/compose.yaml means once it is loaded: whether it says what the nodes, Prometheus and Grafana need."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any


def problems(loaded: Path, deploy: Path, binary: Path) -> list[str]:
    """`loaded` is the file as JSON, as a loader of the Compose specification wrote it."""
    compose = json.loads(loaded.read_text())
    services: dict[str, Any] = compose["services"]
    nodes = {name: service for name, service in services.items() if service["image"] == "mokv:latest"}
    found: list[str] = []

    def expect(holds: bool, what: str) -> None:
        if not holds:
            found.append(f"compose.yaml: {what}")

    def help_of(*command: str) -> str:
        done = subprocess.run([binary, *command, "--help"], capture_output=True, text=True, check=False)
        expect(done.returncode == 0, f"there is no 'mokv {' '.join(command)}'")
        return done.stdout

    expect(sorted(nodes) == ["node-1", "node-2", "node-3"], f"the nodes are {sorted(nodes)}")
    settings = {"MOKV_" + flag.upper().replace("-", "_") for flag in re.findall(r"--([a-z-]+)", help_of("serve"))}
    places: set[str] = set()
    for name, node in nodes.items():
        environment: dict[str, str] = node["environment"]
        expect(set(environment) <= settings, f"{name}: no such settings: {sorted(set(environment) - settings)}")
        expect(environment["MOKV_NODE_NAME"] == environment["MOKV_ADVERTISE_ADDR"] == name, f"{name}: another name")
        joins = environment["MOKV_START_JOIN_ADDRS"].split(",")
        expect(joins == [f"{other}:8401" for other in sorted(nodes)], f"{name}: joins {joins}")
        expect(environment["MOKV_BOOTSTRAP_EXPECT"] == str(len(nodes)), f"{name}: bootstrap-expect")
        [secret] = node["secrets"]
        expect(environment["MOKV_CLUSTER_KEY_FILE"] == secret["target"], f"{name}: the cluster key is elsewhere")
        [volume] = node["volumes"]
        expect(volume["type"] == "volume" and volume["source"] not in places, f"{name}: no volume of its own")
        expect(volume["target"] == environment["MOKV_DATA_DIR"], f"{name}: the data is not in the volume")
        places.add(volume["source"])
        expect(node["user"] == "65532:65532", f"{name}: runs as {node['user']}")
        check, program, *command = node["healthcheck"]["test"]
        expect((check, program) == ("CMD", "/usr/local/bin/mokv"), f"{name}: health is asked by {program}")
        help_of(*command)
        expect(Path(node["build"]["context"], node["build"]["dockerfile"]) == deploy / "Dockerfile", f"{name}: build")
    for name, service in services.items():
        expect(service.get("read_only") is True, f"{name}: its root is not read-only")
        expect(service.get("cap_drop") == ["ALL"], f"{name}: keeps capabilities")
        expect("no-new-privileges:true" in service.get("security_opt", []), f"{name}: may gain privileges")
        expect(all(port.get("host_ip") == "127.0.0.1" for port in service["ports"]), f"{name}: published to all")
        expect(name in nodes or re.search(r":v?\d+\.\d+\.\d+$", service["image"]) is not None, f"{name}: no pinned tag")
        for mount in service["volumes"]:
            if mount["type"] == "bind":
                expect(mount.get("read_only") is True, f"{name}: {mount['target']} can be written")
                expect(Path(mount["source"]).exists(), f"{name}: there is no {mount['source']}")
    targets = re.findall(r"^ +- (\S+:4000)$", (deploy / "prometheus/prometheus.yml").read_text(), re.MULTILINE)
    expect(targets == [f"{name}:4000" for name in sorted(nodes)], f"Prometheus scrapes {targets}")
    return found
