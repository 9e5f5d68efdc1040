"""What an image says about the containers that are made of it, read from deploy/Dockerfile, the only image there is."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shlex


@dataclasses.dataclass
class Image:
    """The root file system, and what runs in it unless a pod says otherwise."""

    root: pathlib.Path
    entrypoint: list[str] = dataclasses.field(default_factory=list)
    command: list[str] = dataclasses.field(default_factory=list)
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    directory: str = "/"
    uid: int = 0
    gid: int = 0

    @classmethod
    def read(cls, dockerfile: pathlib.Path, root: pathlib.Path) -> Image:
        """Reads the final stage. Lines that say nothing about a running container are passed over."""
        image = cls(root, environment={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
        for line in dockerfile.read_text().replace("\\\n", " ").splitlines():
            word, _, rest = line.strip().partition(" ")
            match word:
                case "ENTRYPOINT":
                    image.entrypoint = json.loads(rest)
                case "CMD":
                    image.command = json.loads(rest)
                case "ENV":
                    image.environment |= dict(pair.split("=", 1) for pair in shlex.split(rest))
                case "WORKDIR":
                    image.directory = rest
                case "USER":
                    uid, _, gid = rest.partition(":")
                    image.uid, image.gid = int(uid), int(gid or 0)
        return image
