"""Images for container tests, without a registry: the base is made from Debian packages, servers run from /usr.

The base is made once per machine and kept in the temporary directory, since it takes half a minute.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

from support.servers.base import require_program
from support.servers.docker import DockerEngine

ROOT = Path(__file__).parents[3]
BASE = "maintd-test/python:bookworm"
IMAGE = "maintd-test/maintd:1"
THIN = "maintd-test/thin:1"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PACKAGES = "python3,python3-venv,ca-certificates"


def python_base(engine: DockerEngine) -> str:
    """Import an image of Debian with Python and this machine's certificates, as a substitute for python:3.12-slim."""
    kept = ROOT / ".venv/share/maintd-tests/python-bookworm.tar"
    kept.parent.mkdir(parents=True, exist_ok=True)
    if not kept.exists():
        part = kept.with_suffix(f".{os.getpid()}.tar")
        argv = [require_program("mmdebstrap", "mmdebstrap"), "--quiet", "--variant=minbase", f"--include={PACKAGES}"]
        argv += [f"--customize-hook=copy-in {CERTIFICATES} /etc/ssl/certs"] if CERTIFICATES.exists() else []
        subprocess.run([*argv, "bookworm", str(part)], check=True, capture_output=True)
        part.replace(kept)
    docker(engine, "import", "--change", f"ENV SSL_CERT_FILE={CERTIFICATES}", str(kept), BASE)
    return BASE


def maintd_image(engine: DockerEngine) -> str:
    """Build the project's Dockerfile on that base, with the network of this machine; without the servers of a drill."""
    base = python_base(engine)
    arguments = ("--build-arg", f"BASE={base}", "--build-arg", "RESTORE_PROGRAMS=")
    docker(engine, "build", "--network=host", *arguments, "--tag", IMAGE, str(ROOT))
    return IMAGE


def thin_image(engine: DockerEngine) -> str:
    """Import an image of links into /usr: with `-v /usr:/usr:ro` it runs this machine's Postgres and Redis."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for link in ("bin", "sbin", "lib", "lib64"):
            entry = tarfile.TarInfo(link)
            entry.type, entry.linkname = tarfile.SYMTYPE, f"usr/{link}"
            tar.addfile(entry)
        for folder, mode in (
            ("usr", 0o755),
            ("tmp", 0o1777),
            ("etc", 0o755),
            ("var", 0o755),
            ("data", 0o777),
            ("run", 0o777),
        ):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        for name in ("etc/passwd", "etc/group", "etc/nsswitch.conf"):
            tar.add(f"/{name}", name)
    client = engine.client()
    try:
        client.api.import_image_from_data(packed.getvalue(), repository="maintd-test/thin", tag="1")
    finally:
        client.close()
    return THIN


def docker(engine: DockerEngine, *words: str, timeout: float = 900) -> str:
    """Run the docker command; return its output. A failure shows its errors."""
    environ = {**os.environ, "DOCKER_HOST": engine.url, "DOCKER_BUILDKIT": "0"}
    done = subprocess.run(
        [require_program("docker", "docker.io"), *words], env=environ, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, f"docker {' '.join(words)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout
