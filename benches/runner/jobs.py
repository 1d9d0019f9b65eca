"""What is measured. Every figure is a rate: more is better."""

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from shell import run

HERE = Path(__file__).resolve().parent
FIO = HERE.parent / "jobs"


@dataclass(frozen=True)
class Job:
    name: str
    title: str
    unit: str
    writes: bool
    synced: bool = False  # counts only where fsync reaches the disk

    @property
    def fio(self):
        """Its fio file, if it has one."""
        path = FIO / f"{self.name}.fio"
        return path if path.exists() else None


# In the order of a round: later ones use what earlier ones left.
JOBS = [
    Job("write-1m", "write, 1 MiB blocks", "MB/s", True, synced=True),
    Job("read-1m", "read, 1 MiB blocks", "MB/s", False),
    Job("randread-4k", "random read 4 KiB", "per s", False),
    Job("randread-4k-4", "the same, 4 at once", "per s", False),
    Job("randwrite-4k", "random write 4 KiB", "per s", True),
    Job("mixed-4k", "random 4 KiB, 70 % reads", "per s", True),
    Job("fsync-4k", "write 4 KiB + fsync", "per s", True, synced=True),
    Job("media", "write files of 4 MiB", "MB/s", True),
    Job("create", "create 20 kB files", "files/s", True),
    Job("stat", "walk and stat them", "files/s", False),
    Job("read", "read them", "files/s", False),
    Job("unlink", "unlink them", "files/s", True),
    Job("untar", "untar a source tree", "names/s", True),
    Job("ls", "ls -lR", "names/s", False),
    Job("rm", "rm -rf", "names/s", True),
    Job("clone", "git clone", "names/s", True),
    Job("sqlite-wal", "SQLite inserts, WAL", "per s", True, synced=True),
    Job("sqlite-rollback", "SQLite inserts, rollback journal", "per s", True, synced=True),
]
BY_NAME = {job.name: job for job in JOBS}


def settings(folder, size_mib, slice_s, files, tree):
    """What the jobs want to know, as environment."""
    return {
        **os.environ,
        **tree,
        "DIR": str(folder),
        "SIZE": f"{size_mib}m",
        "QUARTER": f"{size_mib // 4}m",
        "SLICE": str(slice_s),
        "FILES": str(files),
        "MEDIA": str(size_mib // 4),
        "SEED": str(time.time_ns() % 1_000_000_007),
    }


def work(what, job, folder, env, timeout):
    return run([sys.executable, "-I", HERE / "work.py", what, job.name, folder], env=env, timeout=timeout)


def ready(job, folder, env, timeout=120):
    """Makes what the job needs, outside of what is timed."""
    work("ready", job, folder, env, timeout)


def measure(job, folder, env, timeout=120):
    """The figure, in the job's unit."""
    if job.fio is None:
        amount, seconds = map(float, work("run", job, folder, env, timeout).split())
        return amount / seconds
    report = run(["fio", "--output-format=json", job.fio], env=env, timeout=timeout)
    result = json.loads(report[report.index("{"):])["jobs"][0]
    if job.unit == "MB/s":
        return max(result["read"]["bw_bytes"], result["write"]["bw_bytes"]) / 1e6
    return result["read"]["iops"] + result["write"]["iops"]
