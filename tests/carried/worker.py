"""What one machine writes: a program of its own, so that a mount that hangs hangs no test.

    worker.py MOUNTPOINT LEDGER NUMBER SEED WATCH

Reads commands from standard input, a line each, and answers each with a line: `go SECONDS` writes
at random, `turn 0` writes into the databases that are handed on, `save FILE` writes down what the
machine's own folder must hold. WATCH is yes or no: whether files are watched by inotify(7).
"""

import errno
import json
import os
import random
import sys
import time
from pathlib import Path

from machine import is_mounted
from own import Own
from shared import Shared
from tables import Tables

# What a mount answers whose daemon was killed, or which is not there.
GONE = (errno.ENOTCONN, errno.ECONNABORTED, errno.EPERM)


class Ledger:
    """A file of what was acknowledged for good, and of what somebody who had read it removed."""

    def __init__(self, path):
        self.file = open(path, "a", encoding="utf-8")
        self.waiting = []

    def write(self, **line):
        """Appends one line."""
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()

    def added(self, token):
        """A text was written; it is durable from the next fsync on."""
        self.waiting.append(token)

    def synced(self):
        """An fsync returned: everything before it survives."""
        if self.waiting:
            self.write(added=self.waiting)
        self.waiting = []

    def lost(self):
        """The daemon was killed: nothing is known of what was not synced."""
        self.waiting = []


class Worker:
    """Chooses what to do next, and goes on after the mount was gone."""

    def __init__(self, mountpoint, ledger, number, seed, watch):
        self.mountpoint = Path(mountpoint)
        self.random = random.Random(f"{seed}-{number}")
        self.ledger = Ledger(ledger)
        self.own = Own(self.mountpoint / f"own-{number}", self.random)
        self.shared = Shared(self.mountpoint / "shared", number, self.random, self.ledger, watch)
        self.tables = Tables(self.mountpoint / "db", ledger, number, self.random)
        self.kill_file, self.kills = Path(ledger).parent / "kills", 0
        self.counts = {"writes": 0, "fsyncs": 0, "gone": 0, "unreadable": 0}

    def unless_killed(self):
        """Raises if the daemon was killed since the last call, also if it is mounted again."""
        kills = self.kill_file.stat().st_size if self.kill_file.exists() else 0
        before, self.kills = self.kills, kills
        if kills != before:
            raise OSError(errno.ENOTCONN, "the daemon was killed")

    def fsync(self):
        """Makes everything that was acknowledged durable."""
        self.own.top.mkdir(exist_ok=True)
        path = self.own.top / "flushed"
        file = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
        try:
            os.fsync(file)
        finally:
            os.close(file)
        # One before the fsync took what was not synced.
        self.unless_killed()
        self.counts["fsyncs"] += 1
        self.own.synced()
        self.ledger.synced()

    def step(self):
        """Does one thing."""
        chance = self.random.random()
        if chance < 0.08:
            self.fsync()
        elif chance < 0.50:
            self.own.step()
        elif chance < 0.52:
            self.counts["unreadable"] += not self.own.peek()
        elif chance < 0.93:
            self.shared.step()
        else:
            self.tables.step()
        self.counts["writes"] += 1

    def go(self, seconds):
        """Writes for some seconds. What is not durable in the end is made so."""
        end = time.monotonic() + seconds
        is_known = False
        while True:
            try:
                if not is_mounted(self.mountpoint):
                    raise OSError(errno.ENOTCONN, "nothing is mounted")
                if not is_known:
                    self.own.recover()
                    is_known = True
                self.unless_killed()
                if time.monotonic() >= end:
                    self.shared.watch()
                    return self.fsync()
                self.step()
                self.pause()
            except OSError as error:
                if error.errno in GONE:
                    if is_known:
                        self.lost()
                    is_known = False
                    if time.monotonic() > end + 120:
                        raise
                    time.sleep(0.1)
                elif error.errno == errno.EIO and self.shared.is_reading:
                    # What another device wrote is not here yet.
                    self.counts["unreadable"] += 1
                else:
                    raise

    def pause(self):
        """Waits a little, and now and then so long that a checkpoint and a join come between."""
        is_long = self.random.random() < 0.02
        time.sleep(2.5 if is_long else self.random.choice((0, 0.005, 0.02, 0.1)))

    def lost(self):
        """The daemon was killed."""
        self.counts["gone"] += 1
        self.ledger.lost()

    def save(self, path):
        """Writes down what the own folder must hold."""
        Path(path).write_text(json.dumps(self.own.listing()))


def main():
    """Obeys commands until there are no more."""
    mountpoint, ledger, number, seed, watch = sys.argv[1:]
    os.umask(0o022)
    worker = Worker(mountpoint, ledger, int(number), seed, watch == "yes")
    for line in sys.stdin:
        command, argument = line.split()
        if command == "go":
            worker.go(float(argument))
        elif command == "turn":
            worker.tables.turn()
        elif command == "save":
            worker.save(argument)
        print(json.dumps(worker.counts | {"refused": worker.tables.refused}), flush=True)


main()
