"""Containers as processes: what the kubelet asks a container runtime for."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

LAUNCH = pathlib.Path(__file__).with_name("launch.py")
NSENTER = shutil.which("nsenter") or "nsenter"


class StartError(Exception):
    """The container's command could not be run."""


@dataclasses.dataclass
class Mount:
    source: str
    target: str
    read_only: bool


@dataclasses.dataclass
class Description:
    """All there is to know for starting one container."""

    image: str
    scratch: str
    network: str
    hostname: str
    mounts: list[Mount]
    read_only_root: bool
    uid: int
    gid: int
    groups: list[int]
    drop_capabilities: bool
    no_new_privileges: bool
    arguments: list[str]
    environment: dict[str, str]
    directory: str


class Process:
    """A container that runs, or ran."""

    def __init__(self, description: Description, log: pathlib.Path) -> None:
        self.description = description
        self.scratch = pathlib.Path(description.scratch)
        self.scratch.mkdir(parents=True)
        status, tell = os.pipe()
        with log.open("ab") as output:
            self.launcher = subprocess.Popen(
                [sys.executable, "-I", "-S", str(LAUNCH), str(tell)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=[tell],
                env={},
            )
        os.close(tell)
        assert self.launcher.stdin is not None
        with self.launcher.stdin as stdin:
            stdin.write(json.dumps(dataclasses.asdict(description)).encode() + b"\n")
            stdin.flush()
            with open(status) as pipe:
                word, _, rest = pipe.read().strip().partition(" ")
            if word == "started":
                self.pid = int(rest)
                # Names this process for ever, whereas its number can be another's as soon as it has ended.
                self.handle = os.pidfd_open(self.pid)
        if word != "started":
            self.wait()
            raise StartError(rest or f"the launcher failed, see {log}")

    def wait(self) -> int:
        """The exit code. By then the container and all processes in it are gone."""
        code = self.launcher.wait()
        with contextlib.suppress(OSError):
            self.scratch.rmdir()
        return code

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.handle, number)

    def execute(self, arguments: list[str], seconds: float) -> tuple[bool, str]:
        """Runs a command in the container; whether it succeeded within the time, and what it said."""
        enter = ["--target", str(self.pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd"]
        user = ["--setuid", str(self.description.uid), "--setgid", str(self.description.gid)]
        command = subprocess.Popen(
            [NSENTER, *enter, *user, "--", *arguments],
            env=self.description.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            output, _ = command.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            # The whole group: what nsenter started is a child of it, in the container's process namespace.
            os.killpg(command.pid, signal.SIGKILL)
            command.communicate()
            return False, f"no answer within {seconds} s"
        return command.returncode == 0, output.decode(errors="replace").strip()
