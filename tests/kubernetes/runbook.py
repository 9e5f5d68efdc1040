"""What docs/operate.md says, done as it is written."""

from __future__ import annotations

import re
import shlex

from world import REPOSITORY, World, require

PAGE = REPOSITORY / "docs/operate.md"
# It needs a kubelet's own server, which is not here.
NOT_HERE = "kubectl logs"


class Procedure:
    """The commands among which `telling` is, and the manifest that they apply, if any."""

    def __init__(self, telling: str) -> None:
        blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
        found = [text for language, text in blocks if not language and telling in text]
        require(len(found) == 1, f"{PAGE.name} does not say once how to do what has {telling!r}")
        self._commands = found[0]
        self._manifests = [text for language, text in blocks if language == "yaml"]

    def follow(self, world: World, **filled_in: str) -> None:
        """Does it, with the words in capitals that the reader has to fill in."""
        for command in self._commands.splitlines():
            words = shlex.split(command, comments=True)
            if command.startswith(NOT_HERE) or not words:
                continue
            require(words[0] == "kubectl", f"{command!r} is no command of kubectl")
            if words[1] == "apply":
                world.kubectl("apply", "--filename=-", stdin=self._manifest(words[-1]))
                continue
            for blank, word in filled_in.items():
                words = [each.replace(blank, word) for each in words]
            world.kubectl(*words[1:])

    def _manifest(self, name: str) -> str:
        found = [text for text in self._manifests if text.startswith(f"# {name}")]
        require(len(found) == 1, f"{PAGE.name} does not have one {name}")
        return found[0]
