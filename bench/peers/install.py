"""What the systems need, installed into a cache folder outside of the repository.

Each system has a virtual environment of its own; servers come from npm, from Debian packages that
are unpacked (not installed) into the cache, or from where the machine has them already.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INSTALL_S_MAX = 900
POSTGRES = 15


class NotInstalled(Exception):
    """Something that a system needs is not to be had here; says what, and what to do."""


def cache_folder() -> Path:
    """Return the folder of everything that is installed: HEADRACE_BENCH_CACHE or ~/.cache/….

    For root it is in /var/cache: a database server does not run as root, and must get at it.
    """
    named = os.environ.get("HEADRACE_BENCH_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    if os.geteuid() == 0:
        base = "/var/cache"
    return Path(named) if named else Path(base) / "headrace-bench"


def clean_environment(**more: str) -> dict[str, str]:
    """Return the environment without what would change a system's settings from outside."""
    foreign = ("HEADRACE_", "FLOWCTL_", "CELERY_", "PREFECT_", "DBOS_", "RESTATE_", "PG", "PYTHON")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign) and k != "VIRTUAL_ENV"}
    return kept | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"} | more


def _run(arguments: Sequence[str | Path], what: str, cwd: Path | None = None) -> str:
    """Run a command of an installation; returns its output."""
    try:
        done = subprocess.run(
            [str(argument) for argument in arguments],
            capture_output=True,
            text=True,
            timeout=INSTALL_S_MAX,
            cwd=cwd,
            env=clean_environment(),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(f"{what}: {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise NotInstalled(f"{what}: {' '.join(said[-2:])[:300]}")
    return done.stdout


def _stamped(folder: Path, content: str) -> bool:
    """Tell whether *folder* was finished for just *content*."""
    stamp = folder / ".finished"
    return stamp.is_file() and stamp.read_text() == content


def environment(name: str, requirements: Sequence[str], *, state: str = "") -> Path:
    """Return the Python of the virtual environment *name*, which has *requirements*.

    It is made again when they, this Python or *state* are others than last time.
    """
    folder = cache_folder() / name
    content = "\n".join((sys.version, *requirements, state))
    python = folder / "bin" / "python"
    if _stamped(folder, content) and python.exists():
        return python
    begun = time.monotonic()
    print(f"installing {name} into {folder} …", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _run([sys.executable, "-m", "venv", folder], f"a virtual environment for {name}")
    _run([python, "-m", "pip", "install", "--quiet", *requirements], f"pip install {name}")
    (folder / ".finished").write_text(content)
    print(f"installed {name} in {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return python


def own_environment() -> Path:
    """Return the Python of an environment with this repository, and what draws the report."""
    tag = hashlib.sha256(str(ROOT).encode()).hexdigest()[:10]
    settings = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    return environment(f"headrace-{tag}", ["-e", f"{ROOT}[dev,bench]"], state=settings)


def npm_package(name: str, version: str) -> Path:
    """Return the folder that *name* of npm is installed in, with `node_modules` in it."""
    folder = cache_folder() / "npm"
    content = f"{name}@{version}"
    if _stamped(folder, content):
        return folder
    if shutil.which("npm") is None:
        raise NotInstalled("npm is not installed (apt-get install -y npm)")
    print(f"installing {content} …", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    quiet = ("--no-audit", "--no-fund", "--loglevel=error", "--no-update-notifier")
    _run(["npm", "install", *quiet, "--prefix", folder, content], f"npm install {content}")
    (folder / ".finished").write_text(content)
    return folder


def debian_program(program: str, package: str, places: Sequence[Path] = ()) -> tuple[Path, Path]:
    """Return *program* and the folder of its libraries (which may be empty).

    What the machine has is used as it is; else the package and what it lacks here are unpacked
    into the cache: nothing is installed, no service is started, no root is needed.
    """
    system = shutil.which(program)
    for candidate in (*places, *((Path(system),) if system else ())):
        if candidate.is_file():
            return candidate, Path("/nonexistent")
    folder = cache_folder() / package
    if not _stamped(folder, package):
        _unpack(package, folder)
    libraries = folder / "usr/lib/x86_64-linux-gnu"
    found = [path for path in folder.rglob(program) if path.parent.name in {"bin", "sbin"}]
    if not found:
        raise NotInstalled(f"{program} is not in the package {package}")
    return found[0], libraries


def _unpack(package: str, folder: Path) -> None:
    """Unpack a Debian package, with those it depends on that this machine has not."""
    by_hand = f"by hand: apt-get install -y --no-install-recommends {package}"
    if shutil.which("apt-get") is None:
        raise NotInstalled(f"{package}: there is no apt-get here; install it {by_hand}")
    print(f"unpacking {package} into {folder} …", file=sys.stderr, flush=True)
    simulated = ["apt-get", "-s", "-q", "install", "--no-install-recommends", package]
    try:
        plan = _run(simulated, package)
    except NotInstalled:
        if os.geteuid() != 0:
            raise NotInstalled(f"{package}: apt-get does not know it; {by_hand}") from None
        _run(["apt-get", "-q", "update"], "apt-get update")
        plan = _run(simulated, package)
    wanted = [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]
    shutil.rmtree(folder, ignore_errors=True)
    archives = folder / "archives"
    archives.mkdir(parents=True)
    # apt-get's own unprivileged user must be able to write there.
    archives.chmod(0o777)
    _run(["apt-get", "-q", "download", *wanted], f"{package}; {by_hand}", cwd=archives)
    for archive in archives.glob("*.deb"):
        _run(["dpkg-deb", "-x", archive, folder], str(archive))
    shutil.rmtree(archives)
    (folder / ".finished").write_text(package)


def redis() -> tuple[Path, Path]:
    """Return redis-server and the folder of its libraries."""
    return debian_program("redis-server", "redis-server")


def postgres() -> tuple[Path, Path]:
    """Return the folder of PostgreSQL's programs and the folder of its libraries."""
    package = f"postgresql-{POSTGRES}"
    usual = Path(f"/usr/lib/postgresql/{POSTGRES}/bin/initdb")
    program, libraries = debian_program("initdb", package, [usual])
    return program.resolve().parent, libraries
