"""Becomes one container: a process in namespaces of its own that sees its image, its volumes and nothing else.

    python launch.py FD <DESCRIPTION

The description is a line of JSON (see `runtime.Description`). What came of it is told on the file descriptor FD, in one
line: `started PID` or `failed WORDS`. After the end of its input the launcher waits for the process and ends as it
ended, with 128 and the number of the signal if it was killed, as container runtimes do.

It is a program of its own because namespaces can only be changed by a process with a single thread, and it needs
nothing but the standard library, so that it starts quickly.
"""

from __future__ import annotations

import ctypes
import json
import os
import pathlib
import signal
import socket
import sys
from typing import Any

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = (
    0x00020000,
    0x04000000,
    0x08000000,
    0x20000000,
    0x40000000,
)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    8,
    32,
    4096,
    16384,
    1 << 18,
)
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
LAST_CAPABILITY = int(pathlib.Path("/proc/sys/kernel/cap_last_cap").read_text())
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")

libc = ctypes.CDLL(None, use_errno=True)


def check(what: str, result: int) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def mount(source: str, target: str | os.PathLike[str], kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [None if word is None else os.fsencode(word) for word in (source, target, kind, data)]
    check(f"mount {source} at {target}", libc.mount(*encoded[:3], ctypes.c_ulong(flags), encoded[3]))


def bind(source: str, target: pathlib.Path, read_only: bool) -> None:
    """Shows a folder or a file of this machine at a place in the container, which is made if it is not there."""
    if os.path.isdir(source):
        target.mkdir(parents=True, exist_ok=True)
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount(source, target, None, MS_BIND)
    if read_only:
        mount("none", target, None, MS_REMOUNT | MS_BIND | MS_RDONLY)


def build_root(container: dict[str, Any]) -> pathlib.Path:
    """Puts the root file system together: the image below, a layer of its own above, and the mounts in between."""
    scratch = pathlib.Path(container["scratch"])
    mount("layers", scratch, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    for name in ("upper", "work", "root"):
        (scratch / name).mkdir()
    root = scratch / "root"
    layers = f"lowerdir={container['image']},upperdir={scratch / 'upper'},workdir={scratch / 'work'}"
    mount("image", root, "overlay", 0, layers)
    for name in ("proc", "sys", "dev"):
        (root / name).mkdir(exist_ok=True)
    mount("proc", root / "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("sysfs", root / "sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY)
    mount("dev", root / "dev", "tmpfs", MS_NOSUID, "mode=0755")
    for name in DEVICES:
        bind(f"/dev/{name}", root / "dev" / name, read_only=False)
    (root / "dev/shm").mkdir()
    mount("shm", root / "dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777")
    for entry in sorted(container["mounts"], key=lambda entry: str(entry["target"]).count("/")):
        bind(entry["source"], root / entry["target"].lstrip("/"), entry["read_only"])
    if container["read_only_root"]:
        mount("none", root, None, MS_REMOUNT | MS_BIND | MS_RDONLY)
    return root


def enter_root(root: pathlib.Path) -> None:
    """Makes it the root, and lets go of the old one altogether."""
    os.chdir(root)
    check("pivot_root", libc.pivot_root(b".", b"."))
    check("umount of the old root", libc.umount2(b".", MNT_DETACH))
    os.chdir("/")


def drop_privileges(container: dict[str, Any]) -> None:
    if container["drop_capabilities"]:
        for capability in range(LAST_CAPABILITY + 1):
            check("PR_CAPBSET_DROP", libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0))
    os.setgroups(container["groups"])
    os.setresgid(*[container["gid"]] * 3)
    os.setresuid(*[container["uid"]] * 3)
    if container["no_new_privileges"]:
        check("PR_SET_NO_NEW_PRIVS", libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def become(container: dict[str, Any]) -> None:
    """In the first process of the new namespaces: becomes the container's command."""
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    enter_root(build_root(container))
    socket.sethostname(container["hostname"])
    os.setsid()
    drop_privileges(container)
    # A change of user forgets this, so it comes last: nobody outlives the launcher.
    check("PR_SET_PDEATHSIG", libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    os.chdir(container["directory"])
    os.execvpe(container["arguments"][0], container["arguments"], container["environment"])


def main() -> int:
    container = json.loads(sys.stdin.readline())
    status = int(sys.argv[1])
    os.set_inheritable(status, False)
    with open(container["network"]) as network:
        check("setns", libc.setns(network.fileno(), CLONE_NEWNET))
    check("unshare", libc.unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID))
    # Closed without a word when the command runs, because pipes are not inherited by what is executed.
    complaints, complain = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            become(container)
        except BaseException as error:  # Whatever it is, it is to be told.
            os.write(complain, f"{type(error).__name__}: {error}".encode())
        os._exit(128)
    os.close(complain)
    with open(complaints) as pipe:
        words = pipe.read().replace("\n", " ")
    os.write(status, (f"failed {words}\n" if words else f"started {child}\n").encode())
    os.close(status)
    # The process keeps its number until the kubelet has a handle on it, even if it has ended already.
    sys.stdin.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    code = main()
    sys.exit(code if code >= 0 else 128 - code)
