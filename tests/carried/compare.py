"""What must be true of the machines when nothing changes any more."""

import hashlib
import json
import os
import re
import shutil
import sqlite3
import stat
from pathlib import Path

from shared import tokens

SIDES = ("-wal", "-journal", "-shm")


def entry(path):
    """Type, mode, size, hash and names of what is at a path, as `own.describe` says it, and its time."""
    status = os.lstat(path)
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        return ["symlink", os.readlink(path)]
    if stat.S_ISDIR(status.st_mode):
        return ["folder", mode]
    with open(path, "rb") as file:
        content = file.read()
    return ["file", mode, len(content), hashlib.sha256(content).hexdigest()[:16], status.st_nlink,
            status.st_mtime_ns]


def fail(error):
    """Raises what os.walk(3) would leave out."""
    raise error


def tree(top):
    """By path everything below a folder."""
    found = {}
    for folder, folders, names in os.walk(top, onerror=fail):
        for name in folders + names:
            path = os.path.join(folder, name)
            found[os.path.relpath(path, top)] = entry(path)
    return found


TIME = "only the time differs"


def differences(one, other):
    """Paths at which two trees differ, each with both sides."""
    found = []
    for path in sorted(set(one) | set(other)):
        ours, theirs = one.get(path), other.get(path)
        if ours != theirs:
            is_time = ours and theirs and ours[0] == "file" and ours[:5] == theirs[:5]
            found.append(f"{path}: {TIME + ': ' if is_time else ''}{ours} / {theirs}")
    return found


def is_time(difference):
    """Whether nothing but a time differs."""
    return TIME in difference


def own_differences(found, number, expected):
    """Where a machine's own folder is not what that machine wrote."""
    there = {}
    for path, what in found.items():
        if path.startswith(f"own-{number}/") and path != f"own-{number}/flushed":
            there[path.split("/", 1)[1]] = what[:4]
    return differences(there, expected)


class Written:
    """What all machines wrote for good, from their ledgers."""

    def __init__(self, machines):
        self.added, self.taken, self.rows = {}, set(), {}
        for machine in machines:
            if not machine.ledger.exists():
                continue
            for line in machine.ledger.read_text().splitlines():
                line = json.loads(line)
                for token in line.get("added", ()):
                    self.added[token] = machine.name
                self.taken.update(line.get("taken", ()))
                if "row" in line:
                    name, token = line["row"]
                    self.rows.setdefault(name, set()).add(token)


def missing_texts(top, written):
    """Texts that are nowhere, although nobody who had read them took them away."""
    there = set()
    for folder, _, names in os.walk(top, onerror=fail):
        for name in names:
            path = Path(folder) / name
            if not path.is_symlink():
                there.update(tokens(path.read_bytes()))
    return sorted(set(written.added) - written.taken - there)


def rows_of(path, scratch):
    """Opens a copy of a database with its side files. Returns what is wrong, and its rows."""
    shutil.rmtree(scratch, ignore_errors=True)
    os.makedirs(scratch)
    for suffix in ("", "-wal", "-journal"):
        if os.path.exists(f"{path}{suffix}"):
            shutil.copy(f"{path}{suffix}", os.path.join(scratch, f"copy.db{suffix}"))
    try:
        base = sqlite3.connect(os.path.join(scratch, "copy.db"))
        said = [row[0] for row in base.execute("PRAGMA integrity_check")]
        has_rows = base.execute("SELECT count(*) FROM sqlite_master WHERE name = 'rows'").fetchone()[0]
        rows = {row[0] for row in base.execute("SELECT token FROM rows")} if has_rows else set()
        base.close()
    except sqlite3.DatabaseError as error:
        return [str(error)], set()
    return ([] if said == ["ok"] else said), rows


def databases(top, written, scratch):
    """Faults of all versions of all databases, and how many versions there are."""
    faults, versions, found = [], 0, {}
    folder = Path(top) / "db"
    if not folder.is_dir():
        return [], 0
    for path in sorted(folder.iterdir()):
        if path.name.endswith(SIDES):
            if path.name.rsplit("-", 1)[0] not in os.listdir(folder):
                faults.append(f"{path.name} stands beside no database")
            continue
        versions += 1
        wrong, rows = rows_of(path, scratch)
        if wrong and path.stat().st_nlink > 1:
            wrong = [f"it has two names, and its log stands at the other: {wrong[0][:80]}"]
        faults += [f"{path.name}: {line}" for line in wrong[:3]]
        faults += [f"{path.name}: {row} was never committed" for row in sorted(rows) if "torn" in row]
        name = re.match(r"[a-z]+-([0-9]-)?(wal|del)", path.name)[0]
        found.setdefault(name, set()).update(rows)
        if not path.name.startswith("both-") and "(from " in path.name:
            faults.append(f"{path.name}: a conflict of a database that was never written by two at once")
    for name, rows in written.rows.items():
        lost = sorted(rows - found.get(name, set()))
        if lost:
            faults.append(f"{name}: {len(lost)} rows are in no version, as {lost[:5]}")
    return faults, versions
