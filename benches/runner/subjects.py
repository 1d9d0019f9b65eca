"""Who keeps the folder that the sync client uploads: file systems, and backup programs."""

import shutil
import time
from pathlib import Path

import targets
from place import environment
from shell import run
from upload import Watch

SECRET = targets.PASSWORD.strip()


class Mounted:
    """A file system: people work in `folder`, the client uploads `store`."""

    live = True

    def __init__(self, name, base):
        self.name, self.base = name, base
        self.target = targets.Target(targets.BY_NAME[name], base)
        self.folder = self.target.folder
        self.store = self.target.store if self.target.kind != "plain" else self.folder
        self.watch = Watch(self.store)

    def open(self):
        self.target.mount()

    def close(self):
        """Everything is in the store afterwards."""
        self.target.umount()

    def pause(self):
        """A minute passes without a change: what goes out by then is out, the mount stays.

        amberfs checkpoints 30 s after the last change; `sync` is that checkpoint. CryFS writes
        back what it caches within about a second.
        """
        if self.target.kind == "ours":
            self.target.settle()
        elif self.name == "cryfs":
            time.sleep(1.5)

    def remove(self):
        self.target.remove()


class Backup:
    """A backup program: people work in a plain folder, the client uploads the repository."""

    live = False

    def __init__(self, name, base):
        self.name, self.base = name, base
        self.folder, self.store = base / "mnt", base / "store"
        self.folder.mkdir(parents=True)
        self.env = environment(base / "home") | {
            "RESTIC_PASSWORD": SECRET, "RUSTIC_PASSWORD": SECRET, "RUSTIC_NO_PROGRESS": "true",
            "BORG_PASSPHRASE": SECRET, "BORG_BASE_DIR": str(base / "home"),
        }
        self.count = 0
        self.watch = Watch(self.store)
        steps = {
            "restic": ["restic", "-q", "-r", self.store, "init"],
            "rustic": ["rustic", "-r", self.store, "init"],
            "borg": ["borg", "init", "-e", "repokey-blake2", self.store],
        }
        run(steps[name], env=self.env)

    def open(self):
        pass

    def close(self):
        """One backup."""
        self.count += 1
        steps = {
            "restic": ["restic", "-q", "-r", self.store, "backup", "."],
            "rustic": ["rustic", "-r", self.store, "backup", "."],
            "borg": ["borg", "create", "-C", "zstd", f"{self.store}::{self.count}", "."],
        }
        run(steps[self.name], env=self.env, cwd=self.folder, timeout=1200)

    def remove(self):
        shutil.rmtree(self.base, ignore_errors=True)


BACKUPS = ("restic", "rustic", "borg")
NAMES = ("amberfs", "plain", "gocryptfs", "cryfs", "securefs", "encfs", *BACKUPS)
USUAL = ("amberfs", "plain", "gocryptfs", "cryfs", *BACKUPS)


def missing(name):
    """Why it cannot be had, or None."""
    if name in BACKUPS:
        return None if shutil.which(name) else "not installed"
    return targets.missing(targets.BY_NAME[name])


def make(name, place: Path):
    """A new one below PLACE."""
    kind = Backup if name in BACKUPS else Mounted
    return kind(name, place / name)
