"""The volumes of a pod, as folders of this machine."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import time
from collections.abc import Iterator

from api import Api, Object, raw
from environment import Missing, config_map, field, secret
from unsupported import Unsupported

# How the group of a pod gets at its volumes, bits that the kubelet adds.
GROUP_WRITES, GROUP_READS, GROUP_ENTERS = 0o660, 0o440, 0o110
SET_GROUP_ID = 0o2000


class Volumes:
    """Makes the volumes of one pod, and takes away those that end with it."""

    def __init__(self, api: Api, pod: Object, folder: pathlib.Path) -> None:
        self._api, self._pod, self._folder = api, pod, folder
        self._namespace = pod["metadata"]["namespace"]
        self._group: int | None = pod["spec"].get("securityContext", {}).get("fsGroup")
        self._tmpfs: list[pathlib.Path] = []
        self._sources: dict[str, tuple[pathlib.Path, bool]] = {}

    def mount(self) -> None:
        """Makes them all. `Missing` says that one of them cannot be there yet."""
        for volume in self._pod["spec"].get("volumes", []):
            # A sandbox that is made anew finds what was there, as an emptyDir outlives even a restart of its machine.
            if volume["name"] not in self._sources:
                self._sources[volume["name"]] = self._make(volume)

    def source(self, name: str) -> tuple[pathlib.Path, bool]:
        """Where a volume is, and whether it may only be read."""
        return self._sources[name]

    def remove(self) -> None:
        for folder in self._tmpfs:
            subprocess.run(["umount", str(folder)], check=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _make(self, volume: Object) -> tuple[pathlib.Path, bool]:
        folder = self._folder / volume["name"]
        kind = next(key for key in volume if key != "name")
        source = volume[kind] or {}
        match kind:
            case "emptyDir":
                folder.mkdir(parents=True)
                if source.get("medium") == "Memory":
                    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], check=True)
                    self._tmpfs.append(folder)
                folder.chmod(0o777)
                self._give_to_group(folder, GROUP_WRITES)
                return folder, False
            case "persistentVolumeClaim":
                claimed = self._claimed(source["claimName"])
                self._give_to_group(claimed, GROUP_WRITES)
                return claimed, bool(source.get("readOnly"))
            case "configMap" | "secret" | "downwardAPI":
                key = {"configMap": "name", "secret": "secretName"}.get(kind)
                renamed = dict(source) | ({"name": source[key]} if key else {})
                self._project(folder, [{kind: renamed}], source.get("defaultMode", 0o644))
                return folder, True
            case "projected":
                self._project(folder, source["sources"], source.get("defaultMode", 0o644))
                return folder, True
            case _:
                raise Unsupported(f"a volume of the kind {kind}")

    def _claimed(self, name: str) -> pathlib.Path:
        claim = raw(self._api.core.read_namespaced_persistent_volume_claim, name, self._namespace)
        if claim.get("status", {}).get("phase") != "Bound":
            raise Missing(f"the claim {name} is not bound")
        volume = raw(self._api.core.read_persistent_volume, claim["spec"]["volumeName"])
        return pathlib.Path(volume["spec"]["hostPath"]["path"])

    def _project(self, folder: pathlib.Path, sources: list[Object], mode: int) -> None:
        """Writes small files as the kubelet does: into a folder with a date, to which links lead."""
        dated = folder / time.strftime("..%Y_%m_%d_%H_%M_%S")
        dated.mkdir(parents=True)
        for source in sources:
            for path, content, own_mode in self._files(source):
                file = dated / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
                file.chmod(own_mode or mode)
        (folder / "..data").symlink_to(dated.name)
        for entry in dated.iterdir():
            (folder / entry.name).symlink_to(f"..data/{entry.name}")
        self._give_to_group(folder, GROUP_READS)

    def _files(self, source: Object) -> Iterator[tuple[str, bytes, int | None]]:
        (kind, details), *_ = source.items()
        match kind:
            case "configMap" | "secret":
                read = config_map if kind == "configMap" else secret
                values = read(self._api, self._namespace, details["name"], details.get("optional", False))
                chosen = details.get("items") or [{"key": key, "path": key} for key in values]
                for item in chosen:
                    if item["key"] not in values:
                        raise Missing(f"there is no key {item['key']!r} in {details['name']!r}")
                    yield item["path"], values[item["key"]], item.get("mode")
            case "downwardAPI":
                for item in details["items"]:
                    content = field(self._pod, "", item["fieldRef"]["fieldPath"])
                    yield item["path"], content.encode(), item.get("mode")
            case "serviceAccountToken":
                account = self._pod["spec"].get("serviceAccountName", "default")
                request = {"spec": {"expirationSeconds": details.get("expirationSeconds", 3600)}}
                answer = raw(self._api.core.create_namespaced_service_account_token, account, self._namespace, request)
                yield details["path"], answer["status"]["token"].encode(), None
            case _:
                raise Unsupported(f"a projected volume of {kind}")

    def _give_to_group(self, folder: pathlib.Path, bits: int) -> None:
        """Gives all of a volume to the pod's group, as the kubelet does where `fsGroup` is set."""
        if self._group is None:
            return
        for path in (folder, *folder.rglob("*")):
            os.chown(path, -1, self._group, follow_symlinks=False)
            if path.is_symlink():
                continue
            more = bits | (GROUP_ENTERS | SET_GROUP_ID if path.is_dir() else 0)
            path.chmod(path.stat().st_mode & 0o7777 | more)
