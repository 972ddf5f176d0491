"""A Kubernetes node and its control plane as plain processes, inside namespaces of their own.

It owns their configuration, order of start, and logs. Network, mounts and processes are in
namespaces that `support.kube.sandbox` made: what is left behind goes with them, and nothing here
reaches another machine. Only the folder of the state and the control groups are the host's.
"""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from support.kube.run import Failed, run, until

ADDRESS = "192.0.2.1"
"""Of the node: a range for documentation, in a network namespace without a way out."""
PODS = "10.244.0.0/24"
SERVICES = "10.96.0.0/16"
DNS = "10.96.0.10"
NODE = "node-0"
CGROUP = "headrace-kube"
START_S = 120
PLUGINS = ("/opt/cni/bin", "/usr/lib/cni")
_USERS = {
    "admin": ("admin", "system:masters"),
    "controllers": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "kubelet": (f"system:node:{NODE}", "system:nodes"),
    "proxy": ("system:kube-proxy", ""),
    "policies": ("policies", "system:masters"),
}
# What kubelet would set for the whole machine: a file of ours is laid over each, in this namespace.
_SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


class Node:
    """One machine of a cluster, with everything on it. *tools* holds the programs `kube`, …"""

    def __init__(self, state: Path, tools: Path) -> None:
        self.state = state
        self.tools = tools
        self.socket = state / "containerd.sock"
        self._started: list[tuple[str, subprocess.Popen[bytes]]] = []

    def config(self, user: str) -> Path:
        """Return the kubeconfig of a user."""
        return self.state / f"{user}.kubeconfig"

    def start(self) -> None:
        """Start everything, and wait until the node is ready. Raises `Failed`."""
        self._prepare()
        self._control_plane()
        self._runtime()

    def _prepare(self) -> None:
        for folder in ("logs", "fake", "cni", "certs", "pods"):
            (self.state / folder).mkdir(parents=True, exist_ok=True)
        for name, value in _SYSCTLS.items():
            fake = self.state / "fake" / name.replace("/", "-")
            fake.write_text(f"{value}\n")
            run("mount", "--bind", fake, f"/proc/sys/{name}")
        run("ip", "link", "set", "lo", "up")
        # There must be a default route, though it leads nowhere: services are rewritten on the way.
        run("ip", "link", "add", "node0", "type", "veth", "peer", "name", "node1")
        run("ip", "address", "add", f"{ADDRESS}/24", "dev", "node0")
        for name in ("node0", "node1"):
            run("ip", "link", "set", name, "up")
        run("ip", "route", "add", "default", "dev", "node0")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        for controller in Path("/sys/fs/cgroup").iterdir():
            if (controller / "cgroup.procs").exists():
                (controller / CGROUP).mkdir(exist_ok=True)
        parent, own = (Path(f"/sys/fs/cgroup/cpuset/{part}") for part in ("", CGROUP))
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (own / name).exists():
                (own / name).write_text((parent / name).read_text())
        # As a group it would get what one process gets, however many of them are at work.
        shares = Path(f"/sys/fs/cgroup/cpu/{CGROUP}/cpu.shares")
        if shares.exists():
            shares.write_text("8192")
        key = self.state / "certs" / "accounts.key"
        run("openssl", "genrsa", "-out", key, "2048")
        tokens = {user: secrets.token_hex(16) for user in _USERS}
        rows = [f'{tokens[user]},{name},{user},"{group}"' for user, (name, group) in _USERS.items()]
        (self.state / "tokens.csv").write_text("\n".join(rows) + "\n")
        for user, token in tokens.items():
            self._write(self.config(user).name, self._kubeconfig(user, token))

    def _kubeconfig(self, user: str, token: str) -> dict[str, object]:
        server = {
            "server": f"https://{ADDRESS}:6443",
            "certificate-authority": str(self.state / "certs" / "apiserver.crt"),
        }
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": server}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "current-context": "test",
        }

    def _control_plane(self) -> None:
        key = self.state / "certs" / "accounts.key"
        self._kube(
            *("etcd", f"--data-dir={self.state}/etcd", "--log-level=warn", "--unsafe-no-fsync"),
            *("--listen-peer-urls=http://127.0.0.1:2380",),
        )
        self._kube(
            *("apiserver", "--etcd-servers=http://127.0.0.1:2379", f"--bind-address={ADDRESS}"),
            *(f"--advertise-address={ADDRESS}", f"--cert-dir={self.state}/certs"),
            *(f"--service-cluster-ip-range={SERVICES}", "--authorization-mode=Node,RBAC"),
            *(f"--token-auth-file={self.state}/tokens.csv", "--anonymous-auth=true"),
            *("--service-account-issuer=https://kubernetes.default.svc",),
            *(f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}"),
            *("--allow-privileged=true", "--kubelet-preferred-address-types=InternalIP"),
            *self._aggregation(),
        )
        self._wait("the API server answers", lambda: self.kubectl("get", "--raw=/readyz") == "ok")
        self._kube(
            *("controllers", f"--kubeconfig={self.config('controllers')}"),
            *(f"--service-account-private-key-file={key}", "--use-service-account-credentials"),
            *(f"--root-ca-file={self.state}/certs/apiserver.crt", "--leader-elect=false"),
            "--horizontal-pod-autoscaler-sync-period=5s",
        )
        self._kube(
            *("scheduler", f"--kubeconfig={self.config('scheduler')}", "--leader-elect=false"),
        )

    def _aggregation(self) -> tuple[str, ...]:
        """Let the API server ask others in the name of who asks it."""
        key, certificate = (self.state / "certs" / f"front-proxy.{end}" for end in ("key", "crt"))
        subject = ("-subj", "/CN=front-proxy", "-days", "2")
        made = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject)
        run("openssl", *made, "-keyout", key, "-out", certificate)
        return (
            *(f"--proxy-client-cert-file={certificate}", f"--proxy-client-key-file={key}"),
            *(f"--requestheader-client-ca-file={certificate}",),
            *("--requestheader-allowed-names=front-proxy",),
            *("--requestheader-username-headers=X-Remote-User",),
            *("--requestheader-group-headers=X-Remote-Group",),
            *("--requestheader-extra-headers-prefix=X-Remote-Extra-",),
        )

    def _runtime(self) -> None:
        plugins = next((path for path in PLUGINS if Path(path, "ptp").exists()), PLUGINS[0])
        cri = {
            "sandbox_image": "docker.io/headrace/pause:test",
            # Scores below what this process has cannot be set without CAP_SYS_RESOURCE.
            "restrict_oom_score_adj": True,
            "disable_apparmor": True,
            "tolerate_missing_hugetlb_controller": True,
            "disable_hugetlb_controller": True,
            "cni": {"bin_dir": plugins, "conf_dir": str(self.state / "cni")},
        }
        (self.state / "containerd.toml").write_text(_toml(self.state, self.socket, cri))
        addresses = {
            "type": "host-local",
            "subnet": PODS,
            "dataDir": str(self.state / "ipam"),
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        # Each pod is a hop away from the others, so rules of the host see all that is said.
        network = {"type": "ptp", "mtu": 1500, "ipam": addresses}
        self._write(
            "cni/10-test.conflist",
            {
                "cniVersion": "0.4.0",
                "name": "test",
                "plugins": [network],
            },
        )
        self.spawn("containerd", "containerd", f"--config={self.state}/containerd.toml")
        self._wait("containerd answers", lambda: bool(self.containers("version")))
        (self.state / "resolv.conf").write_text("")
        self._write("kubelet.yaml", self._kubelet())
        self._kube(
            *("kubelet", f"--config={self.state}/kubelet.yaml", f"--hostname-override={NODE}"),
            *(f"--kubeconfig={self.config('kubelet')}", f"--root-dir={self.state}/kubelet"),
            *(f"--node-ip={ADDRESS}", f"--cert-dir={self.state}/certs"),
        )
        self._write(
            "proxy.yaml",
            {
                "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                "kind": "KubeProxyConfiguration",
                "mode": "iptables",
                "hostnameOverride": NODE,
                "clusterCIDR": PODS,
                "clientConnection": {"kubeconfig": str(self.config("proxy"))},
                # These are the whole machine's, and stay.
                "conntrack": {"maxPerCore": 0, "min": 0},
                "oomScoreAdj": 0,
            },
        )
        self._kube("proxy", f"--config={self.state}/proxy.yaml")
        ready = '-o=jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}'
        self._wait("the node is ready", lambda: self.kubectl("get", "nodes", ready) == "True")

    def _kubelet(self) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{CGROUP}",
            "failSwapOn": False,
            "failCgroupV1": False,
            "oomScoreAdj": 0,
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "clusterDNS": [DNS],
            "clusterDomain": "cluster.local",
            "resolvConf": str(self.state / "resolv.conf"),
            "podLogsDir": str(self.state / "pods"),
            # A full disk of the machine is not this test's matter.
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "0%"},
            "imageGCHighThresholdPercent": 100,
            "syncFrequency": "10s",
            "nodeStatusUpdateFrequency": "4s",
        }

    def containers(self, *words: str | Path, timeout_s: float = 120) -> str:
        """Run `ctr` with containerd's namespace of Kubernetes."""
        return run("ctr", "-a", self.socket, "-n", "k8s.io", *words, timeout_s=timeout_s)

    def stop(self) -> None:
        """End the parts, the latest first; containers go with the namespace of processes."""
        for _, process in reversed(self._started):
            process.terminate()
        for _, process in reversed(self._started):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()

    def kubectl(self, *words: str | Path, timeout_s: float = 60, text: str | None = None) -> str:
        """Run `kubectl` as the cluster's owner; return what it prints."""
        config = f"--kubeconfig={self.config('admin')}"
        return run("kubectl", config, *words, timeout_s=timeout_s, text=text).strip()

    def apply(self, docs: Sequence[dict[str, Any]], *options: str) -> str:
        """Make these objects, or change those that are there."""
        whole = {"apiVersion": "v1", "kind": "List", "items": docs}
        return self.kubectl("apply", "-f", "-", *options, text=json.dumps(whole))

    def _kube(self, part: str, *options: str) -> None:
        self.spawn(part, self.tools / "kube", part, *options)

    def spawn(self, name: str, *command: str | Path) -> None:
        """Start a part of the node, which ends with it."""
        with (self.state / "logs" / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(word) for word in command], stdout=log, stderr=subprocess.STDOUT
            )
        self._started.append((name, process))

    def _wait(self, what: str, check: Callable[[], bool]) -> None:
        until(what, check, START_S, pause_s=0.5, alive=self._alive)

    def _alive(self) -> None:
        """Raise `Failed` when a part has ended, with its last words."""
        for name, process in self._started:
            if process.poll() is not None:
                log = (self.state / "logs" / f"{name}.log").read_text(errors="replace")
                raise Failed(f"{name} ended with {process.returncode}: {log[-2000:]}")

    def _write(self, name: str, value: object) -> None:
        """Write JSON, which is YAML too."""
        (self.state / name).write_text(json.dumps(value, indent=1))


def _toml(state: Path, socket: Path, cri: dict[str, object]) -> str:
    lines = [
        "version = 2",
        f'root = "{state}/containerd"',
        f'state = "{state}/containerd-run"',
        "[grpc]",
        f'address = "{socket}"',
    ]
    section = '[plugins."io.containerd.grpc.v1.cri"{}]'
    inner: list[str] = []
    lines.append(section.format(""))
    for key, value in cri.items():
        if isinstance(value, dict):
            inner.append(section.format(f".{key}"))
            inner += [f'{name} = "{text}"' for name, text in value.items()]
        else:
            lines.append(
                f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}"
            )
    return "\n".join(lines + inner).replace("'", '"') + "\n"
