"""Buffered reads beside direct writes. direct.py FOLDER: prints what was old."""

import mmap
import os
import sys
import threading

from privileges import PAGE, in_background

LENGTH = 16 * PAGE


def beside(folder, write, rounds):
    """Writes the whole file directly, again and again, while others read it through the
    kernel's cache; once a write has ended nobody may see what was before."""
    path, stale, ended = folder + "/direct", 0, threading.Event()
    with open(path, "wb") as file:
        file.write(bytes(LENGTH))
    direct, cached = os.open(path, os.O_WRONLY | os.O_DIRECT), os.open(path, os.O_RDONLY)

    def read():
        while not ended.is_set():
            for at in range(0, LENGTH, PAGE):
                os.pread(cached, PAGE, at)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    memory = mmap.mmap(-1, LENGTH)
    for number in range(1, rounds):
        new = bytes([number % 256]) * LENGTH
        memory[:] = new
        write(direct, memory)
        stale += os.pread(cached, LENGTH, 0) != new
    ended.set()
    for reader in readers:
        reader.join()
    return stale


def at_once(file, memory):
    os.pwritev(file, [memory], 0)


for name, write in (("at once", at_once), ("in the background", in_background)):
    if old := beside(os.path.abspath(sys.argv[1]), write, 400):
        print(f"{name}: {old}")
