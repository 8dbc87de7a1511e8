"""Other users: a test that runs as root becomes one for a moment; what it does must not depend on who runs it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import maintd
from support.servers.base import require_program


@contextmanager
def folder_for_all() -> Iterator[Path]:
    """Make a folder that every user can enter, unlike pytest's; only its own mode differs from the usual."""
    with tempfile.TemporaryDirectory(prefix="shared-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def as_unprivileged_user(owned: Path | None = None) -> Iterator[None]:
    """As root, become an unprivileged user, who then owns this folder and all in it; others stay who they are.

    Import all modules before: in a checkout below a home of mode 0700 that user cannot read them.
    """
    if os.geteuid() != 0:
        yield
        return
    nobody = pwd.getpwnam("nobody")
    if owned is not None:
        for folder, _, files in os.walk(owned):
            for path in (folder, *(f"{folder}/{name}" for name in files)):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(nobody.pw_gid)
    os.seteuid(nobody.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def output_without_write_access(program: str) -> str:
    """Return what a Python program prints whose user can read every file and write none of root's."""
    argv = [sys.executable, "-c", program]
    if os.geteuid() == 0:
        # The right to read is needed for Python and maintd themselves, which may be below a home of mode 0700.
        nobody = pwd.getpwnam("nobody")
        argv = [
            require_program("setpriv", "util-linux"),
            f"--reuid={nobody.pw_uid}",
            f"--regid={nobody.pw_gid}",
            "--clear-groups",
            "--inh-caps=+dac_read_search",
            "--ambient-caps=+dac_read_search",
            *argv,
        ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def environ_for_all(folder: Path) -> dict[str, str]:
    """Return the environment in which every user can run the Python and the maintd in this folder.

    They are links to the ones that run here, which another user may be unable to reach: below a home of mode 0700.
    """

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:  # on another file system
            shutil.copy2(source, target)

    unused = shutil.ignore_patterns("test", "tests", "idlelib", "site-packages", "*.pth")
    version = f"python{sysconfig.get_python_version()}"
    program = folder / "bin" / version
    for name in ("bin", "lib"):
        (folder / name).mkdir()
    link(os.path.realpath(sys.executable), str(program))
    shutil.copytree(sysconfig.get_path("stdlib"), folder / "lib" / version, copy_function=link, ignore=unused)
    for library in Path(sysconfig.get_config_var("LIBDIR") or "/nowhere").glob("libpython3*.so*"):
        link(os.path.realpath(library), str(folder / "lib" / library.name))
    shutil.copytree(sysconfig.get_path("purelib"), folder / "site", copy_function=link, ignore=unused)
    source = Path(maintd.__file__).parents[1]
    shutil.copytree(source / "maintd", folder / "source/maintd", ignore=unused)
    shutil.copytree(source / "jobs", folder / "source/jobs", ignore=unused)
    script = folder / "bin/maintd"
    script.write_text(f"#!{program}\nimport sys\nfrom maintd.__main__ import main\nsys.exit(main())\n")
    script.chmod(0o755)
    return {
        "PYTHONPATH": f"{folder}/source:{folder}/site",
        "PYTHONHOME": str(folder),
        "LD_LIBRARY_PATH": f"{folder}/lib",
    }
