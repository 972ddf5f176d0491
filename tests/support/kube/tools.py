"""The programs of a cluster, built from their modules by Go: Kubernetes, helm, CoreDNS, and the
Prometheus adapter."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from support.deploykit import ROOT
from support.kube.run import Failed, run

KUBERNETES = "1.34.4"
COREDNS = "1.12.4"
ADAPTER = "sigs.k8s.io/prometheus-adapter"
ADAPTER_VERSION = "0.12.0"
HELM = "helm.sh/helm/v3/cmd/helm@v3.22.0"
PROGRAMS = ("kube", "coredns", "helm", "adapter")
GO_S = 3600
SOURCES = ROOT / "tests" / "kubernetes"


def build(folder: Path) -> None:
    """Build what *folder* does not have yet; it takes ten minutes on two cores. Raises `Failed`."""
    if all((folder / name).exists() for name in PROGRAMS):
        return
    if shutil.which("go") is None:
        raise Failed(f"no Go, and {folder} does not hold all of {', '.join(PROGRAMS)}")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "kube").exists():
        version = "k8s.io/component-base/version"
        minor = KUBERNETES.split(".")[1]
        names = {"gitVersion": f"v{KUBERNETES}", "gitMajor": "1", "gitMinor": minor}
        flags = [f"-X {version}.{name}={value}" for name, value in names.items()]
        _program(folder, "kube", "kube", _kubernetes(), " ".join(flags))
    if not (folder / "coredns").exists():
        module = f"require github.com/coredns/coredns v{COREDNS}\n"
        _program(folder, "names", "coredns", f"module names\n\ngo 1.24.0\n\n{module}")
    if not (folder / "helm").exists():
        env = {**os.environ, "GOBIN": str(folder), "CGO_ENABLED": "0"}
        run("nice", "go", "install", HELM, env=env, timeout_s=GO_S)
    if not (folder / "adapter").exists():
        # It is a command of its module, whose own requirements hold.
        work = folder / "build" / "adapter"
        work.mkdir(parents=True, exist_ok=True)
        (work / "go.mod").write_text(
            f"module adapter\n\ngo 1.24.0\n\nrequire {ADAPTER} v{ADAPTER_VERSION}\n"
        )
        env = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod"}
        options = ("-trimpath", "-ldflags=-s -w", "-o", folder / "adapter")
        run(
            "nice",
            "go",
            "-C",
            work,
            "build",
            *options,
            f"{ADAPTER}/cmd/adapter",
            timeout_s=GO_S,
            env=env,
        )


def _program(folder: Path, source: str, name: str, module: str, flags: str = "") -> None:
    work = folder / "build" / source
    work.mkdir(parents=True, exist_ok=True)
    shutil.copy2(SOURCES / source / "main.go", work)
    (work / "go.mod").write_text(module)
    env = {**os.environ, "CGO_ENABLED": "0"}
    run("go", "-C", work, "mod", "tidy", timeout_s=GO_S, env=env)
    options = ("-trimpath", f"-ldflags=-s -w {flags}", "-o", folder / name)
    run("nice", "go", "-C", work, "build", *options, ".", timeout_s=GO_S, env=env)


def _kubernetes() -> str:
    """Return a go.mod: Kubernetes finds its own parts beside it, others by their versions."""
    told = json.loads(run("go", "mod", "download", "-json", f"k8s.io/kubernetes@v{KUBERNETES}"))
    theirs = Path(told["GoMod"]).read_text()
    parts = re.findall(r"^\s*(?:replace )?(k8s\.io/[a-z0-9-]+) => \./staging", theirs, re.MULTILINE)
    lines = [f"\t{part} => {part} v0.{KUBERNETES.partition('.')[2]}" for part in parts]
    settings = re.findall(r"^(?:go |godebug ).*$", theirs, re.MULTILINE)
    replaced = "\n".join(lines)
    return (
        "module kube\n\n" + "\n\n".join(settings) + "\n\n"
        f"require k8s.io/kubernetes v{KUBERNETES}\n\nreplace (\n{replaced}\n)\n"
    )
