"""What docs/operate.md says, done as it is written."""

from __future__ import annotations

import re
import shlex

from world import REPOSITORY, World, require

PAGE = REPOSITORY / "docs/operate.md"
# It needs a kubelet's own server, which is not here.
NOT_HERE = "kubectl logs"


class Procedure:
    """The commands that apply `<name>.yaml`, and that manifest."""

    def __init__(self, name: str) -> None:
        blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
        applies = f"kubectl apply --filename {name}.yaml"
        commands = [text for language, text in blocks if not language and applies in text]
        manifests = [text for language, text in blocks if language == "yaml" and text.startswith(f"# {name}.yaml")]
        require(len(commands) == len(manifests) == 1, f"{PAGE.name} does not say how to {name}")
        self._commands, self._manifest = commands[0].splitlines(), manifests[0]

    def follow(self, world: World) -> None:
        for command in self._commands:
            words = shlex.split(command, comments=True)
            if command.startswith(NOT_HERE) or not words:
                continue
            require(words[0] == "kubectl", f"{command!r} is no command of kubectl")
            if words[1] == "apply":
                world.kubectl("apply", "--filename=-", stdin=self._manifest)
            else:
                world.kubectl(*words[1:])
