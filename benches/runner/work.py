"""One piece of work in one folder, timed: `work.py ready|run NAME FOLDER`, options in the environment.

A process of its own, so that whoever started it can give it up. `ready` makes what the work
needs; `run` prints how much was done and in how many seconds.
"""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

FILES = int(os.environ.get("FILES", "1000"))
SLICE = float(os.environ.get("SLICE", "1"))
BIG = int(os.environ.get("SIZE", "0m").rstrip("m"))  # MiB of the file that fio's jobs use
FILE_SIZE = 20_000
FOLDERS = 10


def small_names(folder):
    return [folder / "small" / str(n % FOLDERS) / f"{n:05}.opus" for n in range(FILES)]


def create(folder):
    names = small_names(folder)
    contents = [os.urandom(FILE_SIZE) for _ in names]
    for n in range(FOLDERS):
        (folder / "small" / str(n)).mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    for name, content in zip(names, contents):
        with open(name, "xb", buffering=0) as file:
            file.write(content)
    return FILES, time.monotonic() - began


def stat(folder):
    began = time.monotonic()
    found = 0
    for parent, _, names in os.walk(folder / "small"):
        for name in names:
            found += os.lstat(os.path.join(parent, name)).st_size == FILE_SIZE
    took = time.monotonic() - began
    assert found == FILES, f"{found} of {FILES} files"
    return FILES, took


def read(folder):
    began = time.monotonic()
    total = 0
    for name in small_names(folder):
        with open(name, "rb", buffering=0) as file:
            total += len(file.read())
    took = time.monotonic() - began
    assert total == FILES * FILE_SIZE, f"{total} bytes"
    return FILES, took


def unlink(folder):
    began = time.monotonic()
    for name in small_names(folder):
        os.unlink(name)
    took = time.monotonic() - began
    shutil.rmtree(folder / "small")
    return FILES, took


def timed(command, **options):
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    return int(os.environ["TREE_FILES"]), time.monotonic() - began


def untar(folder):
    return timed(["tar", "-xf", os.environ["TREE_TAR"], "-C", folder])


def list_all(folder):
    return timed(["ls", "-lR", folder / "tree"])


def remove_all(folder):
    return timed(["rm", "-rf", folder / "tree"])


def clone(folder):
    shutil.rmtree(folder / "clone", ignore_errors=True)
    return timed(["git", "clone", "-q", "--no-local", os.environ["TREE_GIT"], folder / "clone"])


def inserts(folder, journal):
    path = folder / f"{journal}.db"
    for old in (path, Path(f"{path}-wal"), Path(f"{path}-shm"), Path(f"{path}-journal")):
        old.unlink(missing_ok=True)
    database = sqlite3.connect(path, isolation_level=None)
    mode = database.execute(f"PRAGMA journal_mode = {journal}").fetchone()[0]
    assert mode == journal, f"journal mode {mode}"
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE message (id INTEGER PRIMARY KEY, text BLOB)")
    done = 0
    began = time.monotonic()
    while time.monotonic() < began + SLICE:
        database.execute("INSERT INTO message (text) VALUES (?)", (os.urandom(200),))
        done += 1
    took = time.monotonic() - began
    database.close()
    return done, took


def synced_writes(folder):
    began = time.monotonic()
    with open(folder / "synced", "wb", buffering=0) as file:
        for _ in range(FILES):
            file.write(os.urandom(4096))
            os.fsync(file.fileno())
    return FILES, time.monotonic() - began


WORK = {
    "synced-writes": synced_writes,
    "create": create,
    "stat": stat,
    "read": read,
    "unlink": unlink,
    "untar": untar,
    "ls": list_all,
    "rm": remove_all,
    "clone": clone,
    "sqlite-wal": lambda folder: inserts(folder, "wal"),
    "sqlite-rollback": lambda folder: inserts(folder, "delete"),
}


def lay_out(path):
    if not path.exists():
        with open(path, "wb") as file:
            for _ in range(BIG):
                file.write(os.urandom(1 << 20))


def ready(name, folder):
    if name == "write-1m":
        (folder / "f").unlink(missing_ok=True)
    elif name == "media":
        for old in folder.glob("media.*"):
            old.unlink()
    elif name.endswith(("-1m", "-4k", "-4k-4")):
        lay_out(folder / "f")
    elif name == "create":
        shutil.rmtree(folder / "small", ignore_errors=True)
    elif name in ("stat", "read", "unlink"):
        if not (folder / "small").exists():
            create(folder)
    elif name == "untar":
        shutil.rmtree(folder / "tree", ignore_errors=True)
    elif name in ("ls", "rm"):
        if not (folder / "tree").exists():
            untar(folder)


def main():
    what, name, folder = sys.argv[1:]
    if what == "ready":
        ready(name, Path(folder))
    else:
        amount, seconds = WORK[name](Path(folder))
        print(amount, seconds)


if __name__ == "__main__":
    main()
