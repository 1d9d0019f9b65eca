"""`make bench-scale`: what grows with the number of files and their bytes, and how fast.

At a hundredth, a tenth and all of COUNT small files: mounting (which reads heads and metadata
objects and builds the index anew, as every mount does), the first listing on a new device,
lookups, and a checkpoint after one change. Then the same with DATA GB in files of 4 MiB; as few
disks have the room, sealed content becomes a hole some seconds after it is in the folder; the
measured operations do not read it. Then the index of a hundredth, a tenth and all of a terabyte,
simulated (`benches/terabyte.rs` names the mix of chunks).
"""

import json
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import jobs
import targets
from bench import OUT, say
from place import Place
from shell import Failed, drop_caches, run
from upload import Watch

COUNT = int(os.environ.get("COUNT", "1000000"))
DATA = float(os.environ.get("DATA", "100"))
LOOKUPS = 1000
AMBERFS = targets.RELEASE / "amberfs"


class Small:
    """Files of 600 bytes: more than is kept in the inode, so each has a chunk."""

    where = "amberfs"
    count = COUNT
    in_folder = 1000

    def name(self, number):
        return f"{number // self.in_folder:05}/{number:08}.opus"

    def fill(self, target, start, end):
        for number in range(start, end):
            path = os.path.join(target.folder, self.name(number))
            if number % self.in_folder == 0:
                os.mkdir(os.path.dirname(path))
            with open(path, "xb", buffering=0) as file:
                file.write(os.urandom(600))

    def change(self, folder, count):
        with open(folder / self.name(count // 2), "ab") as file:
            file.write(b"one change")


class Large:
    """Files of 4 MiB, whose sealed content is not kept."""

    where = "data"
    size = 4 << 20
    count = int(DATA * 1e9) // size
    fio = jobs.FIO / "media.fio"
    # Beginning and end hold what a mount reads: prefix and directory.
    kept = 256 << 10

    def __init__(self):
        self.hollowed = set()

    def name(self, number):
        return f"{number:08}.opus"

    def fill(self, target, start, end):
        env = {**os.environ, "DIR": str(target.folder), "SEED": str(start), "MEDIA": str(end - start)}
        env["SIZE"] = str((end - start) * self.size)
        with subprocess.Popen(["fio", "--output=/dev/null", self.fio], env=env) as fio:
            while fio.poll() is None:
                self.hollow(target.store, 5)
                time.sleep(0.2)
        if fio.returncode:
            raise Failed(f"fio ended with {fio.returncode}")
        for number in range(start, end):
            os.rename(target.folder / f"media.0.{number - start}", target.folder / self.name(number))
        run([AMBERFS, "sync", target.folder, "-q"], env=target.env, timeout=600)
        self.hollow(target.store)

    def hollow(self, store, age=0):
        """Makes holes of what objects hold that are so many seconds old; sizes and times stay.

        What was just stored may be read again: a file that goes on is cut anew from its last chunk.
        """
        for path in store.glob("*/obj/*/*"):
            if path in self.hollowed:
                continue
            found = path.stat()
            if found.st_mtime > time.time() - age:
                continue
            length = found.st_size - 2 * self.kept
            if length > 0:
                run(["fallocate", "--punch-hole", "--offset", str(self.kept), "--length", str(length), path])
                os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
            self.hollowed.add(path)

    def change(self, folder, count):
        (folder / "one change").write_bytes(os.urandom(600))


def lookups(folder, name, count):
    """Milliseconds of a stat of a random name, nothing cached by the kernel."""
    draw = random.Random(count)
    wanted = [os.path.join(folder, name(draw.randrange(count))) for _ in range(LOOKUPS)]
    drop_caches()
    began = time.monotonic()
    for path in wanted:
        os.lstat(path)
    return (time.monotonic() - began) / LOOKUPS * 1000


def timed(command, env):
    began = time.monotonic()
    out = run(command, env=env, timeout=1800)
    return time.monotonic() - began, out


class Scale:
    """One repository that grows."""

    def __init__(self, place, files):
        self.place, self.files = place, files
        self.target = targets.Target(targets.BY_NAME["amberfs"], place.path / files.where)

    def mounted(self):
        """Seconds until it can be used, nothing cached."""
        run(["sync"], timeout=300)
        drop_caches()
        began = time.monotonic()
        self.target.mount()
        return time.monotonic() - began

    def grow(self, start, end):
        self.target.mount()
        began = time.monotonic()
        self.files.fill(self.target, start, end)
        created = (end - start) / (time.monotonic() - began)
        peak = targets.peak_kib(self.target.pid)
        self.target.umount()
        return created, peak

    def new_device(self, count):
        """Seconds and names of a complete listing by a device that has only REPO; nothing mounted."""
        state = self.place.path / "new-state"
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir(mode=0o700)
        drop_caches()
        command = [AMBERFS, "--state", state, "ls", self.target.store, "-R", "-l", "--key-file", self.target.base / "key"]
        seconds, out = timed(command, self.target.env)
        found = out.count(".opus")
        if found != count:
            raise Failed(f"a listing of {count} files has {found}")
        return seconds

    def row(self, start, count):
        created, peak_fill = self.grow(start, count)
        listing = self.new_device(count)
        mount = self.mounted()
        peak_mount = targets.peak_kib(self.target.pid)
        lookup = lookups(self.target.folder, self.files.name, count)
        watch = Watch(self.target.store)
        watch.look()
        self.files.change(self.target.folder, count)
        checkpoint, _ = timed([AMBERFS, "sync", self.target.folder], self.target.env)
        added = watch.look()
        peak = targets.peak_kib(self.target.pid)
        self.target.umount()
        return {
            "files": count, "created_per_s": created, "peak_fill_mib": peak_fill / 1024, "mount_s": mount,
            "peak_mount_mib": peak_mount / 1024, "listing_s": listing, "lookup_ms": lookup,
            "checkpoint_s": checkpoint, "checkpoint_bytes": added.bytes, "checkpoint_files": added.files,
            "peak_mib": peak / 1024,
        }


TITLES = {
    "created_per_s": "created, per s",
    "peak_fill_mib": "memory while creating, MiB",
    "mount_s": "mount, index built anew, s",
    "peak_mount_mib": "memory after mount, MiB",
    "listing_s": "first listing on a new device (`ls -lR REPO`), s",
    "lookup_ms": "lookup, ms",
    "checkpoint_s": "checkpoint after one change, s",
    "checkpoint_bytes": "bytes it added",
    "checkpoint_files": "files it added",
    "peak_mib": "memory in all this, MiB",
}


def terabyte(place):
    """What the index alone takes: one row for each size."""
    state = place.path / "terabyte"
    state.mkdir(mode=0o700)
    out = run([targets.RELEASE / "examples" / "terabyte", state], timeout=1800)
    return [json.loads(line) for line in out.splitlines()]


TERABYTE = {
    "rows": "chunks and nodes",
    "memory_mib": "memory, MiB",
    "peak_mib": "memory at most, MiB",
    "learned_s": "read from heads, s",
    "hit_us": "lookup of a chunk that is there, us",
    "miss_us": "of one that is not, us",
}


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def terabyte_markdown(rows):
    head = ["", *(f"{row['bytes'] / 1e9:,.0f} GB" for row in rows), "growth per row, last step"]
    lines = [f"| {' | '.join(head)} |"]
    lines.append("|---" * (len(rows) + 2) + "|")
    for key, title in TERABYTE.items():
        growth = "-"
        if key in ("memory_mib", "learned_s"):
            step = (rows[-1][key] - rows[-2][key]) / (rows[-1]["rows"] - rows[-2]["rows"])
            growth = f"{step * 2**20:.3g} bytes" if key == "memory_mib" else f"{step * 1e6:.3g} us"
        lines.append(f"| {title} | {' | '.join(number(row[key]) for row in rows)} | {growth} |")
    return "\n".join([*lines, ""])


def markdown(rows):
    head = ["", *(f"{row['files']:,} files" for row in rows), "growth per file, last step"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for key, title in TITLES.items():
        cells = [number(row[key]) for row in rows]
        growth = "-"
        if len(rows) > 1 and key != "created_per_s":
            step = (rows[-1][key] - rows[-2][key]) / (rows[-1]["files"] - rows[-2]["files"])
            unit = {"s": ("us", 1e6), "ms": ("ns", 1e6), "mib": ("bytes", 1 << 20)}.get(key.rsplit("_", 1)[1], ("", 1))
            growth = f"{step * unit[1]:.3g} {unit[0]}".strip()
        lines.append(f"| {' | '.join([title, *cells, growth])} |")
    return "\n".join([*lines, ""])


def grown(place, files, save):
    """Rows at a hundredth, a tenth and all."""
    scale, rows, start = Scale(place, files), [], 0
    try:
        for count in (max(files.count // 100, 1), max(files.count // 10, 2), files.count):
            rows.append(scale.row(start, count))
            say(f"{rows[-1]}")
            save(rows)
            start = count
    finally:
        scale.target.remove()
    return rows


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    result = {}

    def save():
        (OUT / "scale.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
        parts = [markdown(result[name]) for name in ("small", "large") if result.get(name)]
        parts += [terabyte_markdown(result["terabyte"])] if "terabyte" in result else []
        (OUT / "scale.md").write_text("\n".join(parts), encoding="utf-8")

    def saver(name):
        return lambda rows: (result.update({name: rows}), save())

    with Place(os.environ.get("WHERE") or str(OUT)) as place:
        if COUNT:
            grown(place, Small(), saver("small"))
        if DATA:
            grown(place, Large(), saver("large"))
        saver("terabyte")(terabyte(place))
    print((OUT / "scale.md").read_text(encoding="utf-8"))
