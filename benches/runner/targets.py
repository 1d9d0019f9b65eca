"""The file systems that are compared, and how each is made, mounted and ended.

Every one runs in the foreground with the options that its users get by default, so that its
process is the one started here and its memory is known.
"""

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from place import environment
from shell import ROOT, Failed, force_umount, is_mounted, run

RELEASE = Path(__file__).resolve().parents[2] / "target" / "release"
PASSWORD = "a password for benchmarks\n"


@dataclass(frozen=True)
class Recipe:
    """How to use one file system. The functions get the target."""

    name: str
    kind: str  # plain: the place itself; ceiling; through: no encryption; peer; ours
    program: str
    init: Callable = lambda target: None
    mount: Callable = lambda target: []
    stdin: str | None = None
    version: tuple = ("--version",)


def amberfs_init(target):
    run([RELEASE / "amberfs", "init", target.store, "--key-out", target.base / "key", "-q"], env=target.env)


def amberfs_mount(target):
    command = [RELEASE / "amberfs", "mount", "-f", target.store, target.folder, "-q"]
    command += ["--key-file", target.base / "key", "--log-file", target.base / "amberfs.log"]
    return command + (["-o", target.options] if target.options else [])


def gocryptfs_init(target):
    run(["gocryptfs", "-q", "-init", "-passfile", target.passfile, target.store], env=target.env)


def securefs_init(target):
    run(["securefs", "create", "--pass", PASSWORD.strip(), target.store], env=target.env)


def rclone_mount(target):
    hidden = run(["rclone", "obscure", PASSWORD.strip()]).strip()
    target.env |= {
        "RCLONE_CONFIG_CRYPT_TYPE": "crypt",
        "RCLONE_CONFIG_CRYPT_REMOTE": str(target.store),
        "RCLONE_CONFIG_CRYPT_PASSWORD": hidden,
    }
    # Without the cache it cannot write inside files. Uploading at once: 5 seconds later, as by
    # default, it would be at work while others are measured.
    return ["rclone", "mount", "crypt:", target.folder, "--vfs-cache-mode", "writes", "--vfs-write-back", "50ms"]


RECIPES = [
    Recipe("plain", "plain", ""),
    Recipe("memfs", "ceiling", "memfs", mount=lambda t: [RELEASE / "examples" / "memfs", t.folder]),
    Recipe("bindfs", "through", "bindfs", mount=lambda t: ["bindfs", "-f", t.store, t.folder]),
    Recipe("amberfs", "ours", "amberfs", amberfs_init, amberfs_mount),
    Recipe(
        "gocryptfs", "peer", "gocryptfs", gocryptfs_init,
        lambda t: ["gocryptfs", "-q", "-fg", "-passfile", t.passfile, t.store, t.folder],
        version=("-version",),
    ),
    Recipe(
        "securefs", "peer", "securefs", securefs_init,
        lambda t: ["securefs", "mount", "--pass", PASSWORD.strip(), t.store, t.folder],
        version=("version",),
    ),
    Recipe(
        "cryfs", "peer", "cryfs",
        mount=lambda t: ["cryfs", "-f", t.store, t.folder], stdin=PASSWORD,
    ),
    Recipe(
        "encfs", "peer", "encfs",
        mount=lambda t: ["encfs", "-f", "--standard", "-S", t.store, t.folder], stdin=PASSWORD,
    ),
    Recipe("rclone", "peer", "rclone", mount=rclone_mount, version=("version",)),
]
BY_NAME = {recipe.name: recipe for recipe in RECIPES}


class Target:
    """One file system over a folder of its own: BASE/store, shown at `folder`."""

    def __init__(self, recipe, base, options=""):
        self.recipe, self.base, self.options = recipe, base, options
        self.name, self.kind = recipe.name, recipe.kind
        self.store, self.folder = base / "store", base / "mnt"
        self.process = None
        self.folder.mkdir(parents=True)
        if recipe.kind != "plain":
            self.store.mkdir()
        self.env = environment(base / "home")
        self.passfile = base / "password"
        self.passfile.write_text(PASSWORD, encoding="ascii")
        self.passfile.chmod(0o600)
        self.made = False

    def mount(self):
        """Makes it if need be, mounts it, and waits until it answers."""
        if self.kind == "plain":
            return self
        if not self.made:
            self.recipe.init(self)
            self.made = True
        errors = open(self.base / "daemon.log", "ab")
        command = [str(word) for word in self.recipe.mount(self)]
        self.process = subprocess.Popen(
            command, env=self.env, stdin=subprocess.PIPE, stdout=errors, stderr=errors, start_new_session=True
        )
        if self.recipe.stdin:
            self.process.stdin.write(self.recipe.stdin.encode())
        self.process.stdin.close()
        end = time.monotonic() + 300  # CryFS stretches its password for long
        while not is_mounted(self.folder):
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                tail = (self.base / "daemon.log").read_text(errors="replace").strip().splitlines()
                raise Failed(f"does not mount: {tail[-1] if tail else 'no message'}")
            time.sleep(0.02)
        run(["ls", self.folder], timeout=20)
        return self

    def settle(self):
        """Returns when what was written is where it will stay, and the seconds that took."""
        began = time.monotonic()
        if self.kind == "ours":
            run([RELEASE / "amberfs", "sync", self.folder, "-q"], timeout=300, env=self.env)
        run(["sync", "-f", self.folder], timeout=300)
        took = time.monotonic() - began
        idle_from = cpu_seconds(self.pid)
        end = time.monotonic() + 20
        while self.pid and time.monotonic() < end:
            time.sleep(0.12)
            now = cpu_seconds(self.pid)
            if now - idle_from < 0.02:
                break
            idle_from = now
            took = time.monotonic() - began
        return took

    def umount(self):
        """Unmounts in good order: everything is in the store afterwards."""
        if self.process is None:
            return
        if self.kind == "ours":
            run([RELEASE / "amberfs", "umount", self.folder, "-q"], timeout=300, env=self.env)
        else:
            run(["umount", self.folder] if ROOT else ["fusermount3", "-u", self.folder], timeout=60)
        try:
            self.process.wait(300)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed("does not end after umount") from None
        self.process = None

    def kill(self):
        """Ends it whatever state it is in."""
        force_umount(self.folder)
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process = None

    def remove(self):
        """Frees its space."""
        self.kill()
        shutil.rmtree(self.base, ignore_errors=True)

    @property
    def pid(self):
        """The daemon's process, or None."""
        return self.process.pid if self.process is not None else None


def cpu_seconds(pid):
    """Processor time a process has used."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def forget_peak(pid):
    """Lets the kernel's peak of the resident set begin anew."""
    if pid is not None:
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_kib(pid):
    """Highest resident set since then (VmHWM), in KiB; None without a process."""
    if pid is None:
        return None
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return None


def missing(recipe):
    """Why this one cannot be had here, or None."""
    if recipe.kind == "plain":
        return None
    if recipe.kind in ("ours", "ceiling"):
        program = RELEASE / ("examples" if recipe.kind == "ceiling" else "") / recipe.program
        return None if program.exists() else f"{program} is not built"
    return None if shutil.which(recipe.program) else "not installed"


def version(recipe):
    """First line of what the program says of itself."""
    if recipe.kind in ("plain", "ceiling"):
        return ""
    program = RELEASE / "amberfs" if recipe.kind == "ours" else recipe.program
    try:
        process = subprocess.run([program, *recipe.version], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "version unknown"
    lines = (process.stdout + process.stderr).strip().splitlines()
    return lines[0].split(";")[0] if lines else "version unknown"
