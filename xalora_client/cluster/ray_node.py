"""How Ray is started on a machine: its variables, its arguments, and its refusals in one sentence."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from ..errors import ConfigurationError
from .machine import MACHINE_VARIABLE, PROXIES, Machine

NAMESPACE = "xalora"
INSTALL = 'Install it with: pip install "xalora[cluster]".'
LOOPBACK = "127.0.0.1"
OBJECT_STORE_BYTES = 256 << 20
_SMALLEST_STORE = 80 << 20  # Ray refuses less

_SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A machine that hangs is noticed within 10 s instead of 66.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL": "minor",
}
_TLS = ("RAY_USE_TLS", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
_NOWHERE = "http://127.0.0.1:9"


def check_installed() -> None:
    """Check that this machine can be a part of a cluster.

    Raises:
        ConfigurationError: It is not Linux, or Ray is not installed.
    """
    if sys.platform != "linux":
        raise ConfigurationError(
            "Machines of a cluster run Linux",
            money="",
            next_step="This machine can use one: set XALORA_WORKFLOW_URL to its address.",
        )
    if importlib.util.find_spec("ray") is None:
        raise ConfigurationError("A cluster needs ray, which is not installed", money="", next_step=INSTALL)


def environment(token: Path, *, loopback: bool, machine: Path | None = None) -> dict[str, str]:
    """The variables of a process that uses Ray.

    Args:
        token: The file of the cluster's token.
        loopback: Whether Ray is to listen on loopback only; then no other machine can join.
        machine: The file of the :class:`.Machine`.
    """
    # Variables of another cluster's must not lead this one astray.
    own = {name: value for name, value in os.environ.items() if name in _TLS or not name.startswith("RAY_")}
    own |= _SETTINGS | {"RAY_AUTH_TOKEN_PATH": str(token), "PYTHONUNBUFFERED": "1"}
    if loopback:
        own["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if machine is not None:
        own[MACHINE_VARIABLE] = str(machine)
    return own


def head_environment(token: Path, gcs: Path, *, loopback: bool, machine: Path | None) -> dict[str, str]:
    """The variables of Ray's head: its tables outlive it, and it asks no cloud for metadata."""
    own = environment(token, loopback=loopback, machine=machine)
    # Ray's head asks 169.254.169.254 at each start, with statistics off as well; workers get the user's
    # values back.
    own |= dict.fromkeys(("http_proxy", "HTTP_PROXY"), _NOWHERE)
    own |= dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost")
    return own | {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(gcs)}


def proxies() -> dict[str, str | None]:
    """The user's values of the variables that Ray's head has other ones of."""
    return {name: os.environ.get(name) for name in PROXIES}


def head_command(address: str, port: int, temporary: Path, machine: Machine | None) -> list[str]:
    """The command of Ray's head, which stays in the foreground."""
    return [
        *_start("--head", f"--port={port}", "--include-dashboard=false"),
        *_common(address, temporary, machine),
    ]


def machine_command(head: str, address: str, temporary: Path, machine: Machine) -> list[str]:
    """The command of a further machine, which joins the head at ``host:port``."""
    return [*_start(f"--address={head}"), *_common(address, temporary, machine)]


def _start(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *arguments]


def _common(address: str, temporary: Path, machine: Machine | None) -> list[str]:
    resources: Mapping[str, float] = {} if machine is None else {machine.resource: 1}
    slots = 0 if machine is None else machine.slots
    gpus = [] if machine is not None and machine.uses_gpus else ["--num-gpus=0"]
    free = shutil.disk_usage("/dev/shm").free
    size = max(_SMALLEST_STORE, min(OBJECT_STORE_BYTES, int(free * 0.8)))
    # A container's may be of 64 MB; a folder on disk is slower and does as well.
    store = [f"--plasma-directory={temporary}"] if free < size else []
    return [
        *(f"--node-ip-address={address}", f"--num-cpus={slots}", f"--resources={json.dumps(resources)}"),
        *(f"--temp-dir={temporary}", f"--object-store-memory={size}", "--disable-usage-stats"),
        # Ports that the system gives: in Ray's own range the head's may lie.
        *("--min-worker-port=0", "--max-worker-port=0"),
        *("--include-log-monitor=false", "--log-style=record", "--log-color=false", *gpus, *store),
    ]


_VERSIONS = re.compile(
    r"Version mismatch: The cluster was started with:\s+Ray: (\S+)\s+Python: (\S+)"
    r".*?was started with:\s+Ray: (\S+)\s+Python: (\S+)",
    re.DOTALL,
)


def refusal_in(log: str) -> str | None:
    """Why a head refuses a machine for good, by the output of Ray; None where it names no such reason."""
    if found := _VERSIONS.search(log):
        ray, python, own_ray, own_python = found.groups()
        own = f"Ray {own_ray} on Python {own_python}"
        return f"The head has Ray {ray} on Python {python}, and this machine {own}"
    if re.search(r"InvalidAuthToken|AuthenticationError|Unauthenticated|UNAUTHENTICATED|invalid.*token", log):
        return "The head refuses this machine's token"
    return None
