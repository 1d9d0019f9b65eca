"""Whether fsync means what it says: flushes that reach a disk, counted by the kernel."""

import subprocess
import sys
from pathlib import Path

from shell import ROOT, Failed, force_umount, run
from targets import Target

WRITES = 200


def write_and_fsync(target):
    work = [sys.executable, "-I", Path(__file__).with_name("work.py"), "run", "synced-writes", target.folder]
    run(work, env={"FILES": str(WRITES)}, timeout=120)


def on_own_disk(recipes, scratch, say):
    """Flushes per fsync, by name: each target in turn over a loop device that nobody else uses."""
    image, disk = scratch / "disk", scratch / "d"
    disk.mkdir()
    run(["truncate", "-s", "3g", image])
    run(["mkfs.ext4", "-q", image])
    run(["mount", "-o", "loop", image, disk])
    found = {}
    try:
        device = Path(run(["findmnt", "-no", "SOURCE", disk]).strip()).name
        for recipe in recipes:
            target = Target(recipe, disk / recipe.name)
            try:
                target.mount()
                target.settle()
                before = flushes(device)
                write_and_fsync(target)
                found[recipe.name] = (flushes(device) - before) / WRITES
            except Failed as failure:
                say(f"flushes: {recipe.name} left out: {failure}")
            finally:
                target.remove()
    finally:
        run(["umount", disk])
        image.unlink()
    return found


def flushes(device):
    """Flush requests that a block device has finished (Documentation/block/stat.rst, field 16)."""
    return int(Path(f"/sys/block/{device}/stat").read_text().split()[15])


def by_strace(recipe, scratch):
    """Calls of fdatasync and fsync by the daemon per fsync, where there is no disk of our own."""
    target = Target(recipe, scratch / "traced").mount()
    count = scratch / "strace"
    try:
        trace = ["strace", "-f", "-c", "-e", "trace=fsync,fdatasync", "-o", count, "-p", target.pid]
        tracer = subprocess.Popen([str(word) for word in trace], stderr=subprocess.PIPE, text=True)
        if "attached" not in tracer.stderr.readline():
            raise Failed("strace may not attach to it")
        write_and_fsync(target)
        tracer.terminate()
        tracer.wait(20)
    finally:
        target.remove()
    rows = [line.split() for line in count.read_text().splitlines()]
    return {recipe.name: sum(int(row[3]) for row in rows if row and row[-1] in ("fsync", "fdatasync")) / WRITES}


def per_fsync(recipes, scratch, say):
    """Flushes per fsync by name. Fails if amberfs has less than one."""
    if ROOT:
        found = on_own_disk([recipe for recipe in recipes if recipe.kind != "ceiling"], scratch, say)
    else:
        found = {}
        for recipe in recipes:
            if recipe.kind == "ours":
                found = by_strace(recipe, scratch)
    ours = found.get("amberfs")
    assert ours is None or ours >= 1, f"fsync on amberfs caused {ours} flushes: it is not real"
    return found
