"""Where the file systems under test keep their data: a tmpfs, or a folder on a disk."""

import os
import shutil
import tempfile
from pathlib import Path

from shell import ROOT, Failed, force_umount, run

TMPFS_SIZE = "12g"


class Place:
    """A scratch folder, gone at the end. Use it with `with`."""

    def __init__(self, where):
        """WHERE is `tmpfs` or a folder."""
        self.where = where
        self.own_tmpfs = False

    def __enter__(self):
        if self.where == "tmpfs":
            if not ROOT and not os.access("/dev/shm", os.W_OK):
                raise Failed("tmpfs: neither root nor a /dev/shm to write to")
            parent = "/tmp" if ROOT else "/dev/shm"
        else:
            parent = self.where
            Path(parent).mkdir(parents=True, exist_ok=True)
        # Short: a socket's path has 108 bytes.
        self.path = Path(tempfile.mkdtemp(prefix="amber-", dir=parent)).resolve()
        if self.where == "tmpfs" and ROOT:
            run(["mount", "-t", "tmpfs", "-o", f"size={TMPFS_SIZE}", "none", self.path])
            self.own_tmpfs = True
        self.kind = run(["stat", "-f", "-c", "%T", self.path]).strip().replace("ext2/ext3", "ext4")
        return self

    def __exit__(self, *_):
        if self.own_tmpfs:
            force_umount(self.path)
        shutil.rmtree(self.path, ignore_errors=True)

    def sync(self):
        """Lets nothing of one slice be written during the next."""
        run(["sync", "-f", self.path], timeout=120)


def environment(home):
    """For programs under test: whatever they keep, they keep below HOME."""
    for folder in ("state", "cache", "config", "run"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    (home / "run").chmod(0o700)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("AMBERFS_")},
        "HOME": str(home),
        "XDG_STATE_HOME": str(home / "state"),
        "XDG_DATA_HOME": str(home / "state"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_RUNTIME_DIR": str(home / "run"),
        "CRYFS_FRONTEND": "noninteractive",
        "CRYFS_NO_UPDATE_CHECK": "true",
    }
