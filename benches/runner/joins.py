"""`make bench-joins`: what it costs to join what two devices wrote apart, and to say what one holds.

At a hundredth, a tenth and all of COUNT small files: two devices with all of them change 100 files
each, 50 of them the same. Then `ls` of one folder, by a program that opens the repository anew:
time and memory with the head of one device, and with those of both, the best of five runs. Then
the bytes of a head that says what its device holds and nothing else, and how many files came while
both devices mounted and unmounted five times and changed nothing.
"""

import os
import shutil
import time

import targets
from bench import OUT, say
from place import Place, environment
from shell import run

COUNT = int(os.environ.get("COUNT", "1000000"))
CHANGES = 100
IN_FOLDER = 1000
RUNS = 5
AMBERFS = targets.RELEASE / "amberfs"


def name(number):
    return f"{number // IN_FOLDER:05}/{number:08}.txt"


def carry(one, other):
    """All that one folder has and the other has not comes there."""
    run(["cp", "-an", f"{one}/.", other], timeout=600)


def files(repo):
    return {path: path.stat().st_size for path in repo.glob("*/*/**/*") if path.is_file()}


class Device:
    """A machine with its own copy of the repository."""

    def __init__(self, folder, which, key):
        # The folder around a repository counts as one that is uploaded.
        self.repo, self.mnt, self.key = folder / f"synced-{which}" / "repo", folder / f"mnt-{which}", key
        self.env = environment(folder / f"home-{which}")
        self.mnt.mkdir()
        self.repo.mkdir(parents=True)

    def amberfs(self, *words, timeout=1800):
        return run([AMBERFS, *words, "--key-file", self.key, "-q"], env=self.env, timeout=timeout)

    def mounted(self, work=lambda _: None):
        """Mounts, works and unmounts."""
        self.amberfs("mount", self.repo, self.mnt)
        try:
            work(self.mnt)
        finally:
            self.amberfs("umount", self.mnt)

    def ls(self):
        """Seconds and MB of a listing of one folder, the best of some."""
        found = []
        for _ in range(RUNS):
            began = time.monotonic()
            command = ["/usr/bin/time", "-f", "%M", AMBERFS, "ls", self.repo, "/00000", "--key-file", self.key]
            out = run(["sh", "-c", '"$@" 2>&1 >/dev/null', "-", *command], env=self.env, timeout=600)
            found.append((time.monotonic() - began, int(out.split()[-1]) / 1024))
        return min(found)


def fill(count):
    def work(mnt):
        for folder in range((count + IN_FOLDER - 1) // IN_FOLDER):
            os.mkdir(mnt / f"{folder:05}")
        for number in range(count):
            (mnt / name(number)).write_text(f"message {number}")

    return work


def change(count, which):
    def work(mnt):
        step = count // (4 * CHANGES)
        for at in range(CHANGES):
            # Half of them are those that the other device changes, too.
            number = (at if at < CHANGES // 2 else at + which * CHANGES) * step
            (mnt / name(number)).write_text(f"changed {number} by {which}")

    return work


def measure(place, count):
    folder = place.path / str(count)
    folder.mkdir()
    key = folder / "key"
    one, other = Device(folder, 0, key), Device(folder, 1, key)
    run([AMBERFS, "init", one.repo, "--key-out", key, "-q"], env=one.env)
    one.mounted(fill(count))
    carry(one.repo, other.repo)
    one.mounted(change(count, 0))
    alone = one.ls()
    other.mounted(change(count, 1))
    carry(other.repo, one.repo)
    joined = one.ls()
    for _ in range(2):
        for device, peer in ((one, other), (other, one)):
            carry(peer.repo, device.repo)
            before = files(device.repo)
            device.mounted()
            answer = [size for path, size in files(device.repo).items() if path not in before]
            if answer:
                answers = answer
    before = len(files(one.repo)) + len(files(other.repo))
    for _ in range(5):
        for device, peer in ((one, other), (other, one)):
            carry(peer.repo, device.repo)
            device.mounted()
    new = len(files(one.repo)) + len(files(other.repo)) - before
    shutil.rmtree(folder)
    return alone, joined, answers, new


def main():
    lines = ["| files | one head: s, MB | two heads joined: s, MB | bytes of an answer | new files in a quiet folder |", "|---|---|---|---|---|"]
    with Place(os.environ.get("WHERE") or str(OUT)) as place:
        for count in sorted({max(COUNT // 100, 4 * CHANGES), COUNT // 10, COUNT}):
            (s, mb), (joined_s, joined_mb), answers, new = measure(place, count)
            lines.append(f"| {count:,} | {s:.2f}, {mb:.0f} | {joined_s:.2f}, {joined_mb:.0f} | {sum(answers):,} | {new} |")
            say(lines[-1])
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "joins.md").write_text("\n".join(lines) + "\n")
    say("\n".join(lines))
