"""Kubernetes' own control plane: etcd, API server, controllers and scheduler as processes on the loopback address."""

from __future__ import annotations

import pathlib
import secrets
import ssl
import subprocess
import time
import urllib.error
import urllib.request

import yaml

ETCD, ETCD_PEERS, API_SERVER, CONTROLLERS, SCHEDULER = 2379, 2380, 6443, 10257, 10259
LIMIT_SECONDS = 300.0
# Who may do what is Kubernetes' own business: these are the names and groups that it knows.
USERS = {
    "admin": ("admin", "system:masters"),
    "controllers": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
}


class ControlPlane:
    """Four processes with all their state in one folder. They end with the process namespace at the latest."""

    def __init__(self, binaries: pathlib.Path, folder: pathlib.Path) -> None:
        self._binaries, self._folder = binaries, folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self._tokens = {name: secrets.token_hex(16) for name in USERS}
        folder.mkdir(parents=True)

    def kubeconfig(self, name: str) -> pathlib.Path:
        return self._folder / f"{name}.kubeconfig"

    def start(self) -> None:
        """Returns when pods can be created."""
        self._write_secrets()
        peers = f"http://127.0.0.1:{ETCD_PEERS}"
        self._run(
            "etcd",
            f"--data-dir={self._folder / 'etcd'}",
            f"--listen-client-urls=http://127.0.0.1:{ETCD}",
            f"--advertise-client-urls=http://127.0.0.1:{ETCD}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            # Nothing here is to outlive the run.
            "--unsafe-no-fsync",
        )
        self._run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{ETCD}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={API_SERVER}",
            f"--cert-dir={self._folder}",
            f"--token-auth-file={self._folder / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={self._folder / 'accounts.key'}",
            f"--service-account-key-file={self._folder / 'accounts.key'}",
        )
        self._wait("readyz")
        for program, user, port in (
            ("kube-controller-manager", "controllers", CONTROLLERS),
            ("kube-scheduler", "scheduler", SCHEDULER),
        ):
            kubeconfig = self.kubeconfig(user)
            more = [
                "--use-service-account-credentials=true",
                f"--service-account-private-key-file={self._folder / 'accounts.key'}",
                f"--root-ca-file={self._folder / 'apiserver.crt'}",
            ]
            self._run(
                program,
                f"--kubeconfig={kubeconfig}",
                f"--authentication-kubeconfig={kubeconfig}",
                f"--authorization-kubeconfig={kubeconfig}",
                "--bind-address=127.0.0.1",
                f"--secure-port={port}",
                f"--cert-dir={self._folder}",
                "--leader-elect=false",
                *(more if user == "controllers" else []),
            )
        # A namespace takes pods only once the controllers have made its account.
        self._wait("api/v1/namespaces/default/serviceaccounts/default")

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def require_running(self) -> None:
        for process in self._processes:
            if process.poll() is not None:
                raise RuntimeError(f"{process.args} ended with {process.returncode}, see its log in {self._folder}")  # type: ignore[str-bytes-safe]

    def _write_secrets(self) -> None:
        lines = [f"{self._tokens[name]},{user},{name},{group}" for name, (user, group) in USERS.items()]
        (self._folder / "tokens.csv").write_text("\n".join(lines) + "\n")
        key = self._folder / "accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
        for name, token in self._tokens.items():
            # The API server signs its own certificate when it starts, and writes it there.
            cluster = {
                "server": f"https://127.0.0.1:{API_SERVER}",
                "certificate-authority": str(self._folder / "apiserver.crt"),
            }
            document = {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "test", "cluster": cluster}],
                "users": [{"name": name, "user": {"token": token}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
                "current-context": "test",
            }
            self.kubeconfig(name).write_text(yaml.safe_dump(document))

    def _run(self, program: str, *flags: str) -> None:
        with (self._folder / f"{program}.log").open("wb") as log:
            process = subprocess.Popen([str(self._binaries / program), *flags], stdout=log, stderr=log)
        self._processes.append(process)

    def _wait(self, path: str) -> None:
        """Waits until the API server answers a request with success."""
        end = time.monotonic() + LIMIT_SECONDS
        trust = ssl.create_default_context()
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
        request = urllib.request.Request(
            f"https://127.0.0.1:{API_SERVER}/{path}", headers={"Authorization": f"Bearer {self._tokens['admin']}"}
        )
        direct = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
        )
        while True:
            self.require_running()
            try:
                with direct.open(request, timeout=5):
                    return
            except (urllib.error.URLError, OSError) as error:
                if time.monotonic() > end:
                    raise RuntimeError(f"the API server does not answer /{path}: {error}") from error
            time.sleep(0.2)
