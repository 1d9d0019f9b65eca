"""Folders that all machines write at once. Every text that is written is there once in the world.

A text may be missing in the end only if somebody replaced or removed it who had read it. So
whatever takes content away reads it first, and keeps the file open meanwhile: of a file that is
open a mount shows nothing new.
"""

import ctypes
import errno
import os
import re
import time

TOKEN = re.compile(rb"<[0-9]+:[0-9]+>")
NAMES = ("a", "b", "c", "d.txt", "e.txt", ".f")
FOLDERS = ("", "p", "q", "p/r", "q/s")
EXPECTED = (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.EINVAL,
            errno.ELOOP, errno.ESTALE)


def tokens(content):
    """All texts in some bytes."""
    return [token.decode() for token in TOKEN.findall(content)]


def rename_to_new(old, new):
    """Renames, unless something has the new name."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), 1) != 0:
        raise OSError(ctypes.get_errno(), "renameat2", str(new))


class Changed(Exception):
    """A file changed that nobody here wrote to."""


class Shared:
    """Random changes below one folder."""

    def __init__(self, top, number, chance, ledger, watch):
        self.top, self.number, self.random, self.ledger = top, number, chance, ledger
        self.count = 0
        self.is_reading = False
        self.watches, self.may_watch = None, watch
        self.libc = ctypes.CDLL(None, use_errno=True)

    def text(self):
        """A new text."""
        self.count += 1
        token = f"<{self.number}:{self.count}>"
        padding = "x" * self.random.choice((0, 0, 30, 5000, 70_000))
        return token, f"{token} {padding}\n".encode()

    def path(self):
        """A path that may or may not exist: a usual one, or one that is there."""
        if self.random.random() < 0.3:
            found = [os.path.join(folder, name) for folder, _, names in os.walk(self.top) for name in names]
            if found:
                return self.random.choice(sorted(found))
        return os.path.join(self.top, self.random.choice(FOLDERS), self.random.choice(NAMES))

    def step(self):
        """Changes something; that a name is there or not is no failure."""
        self.top.mkdir(exist_ok=True)
        self.is_reading = False
        kinds = [self.append] * 6 + [self.save] * 5 + [self.rewrite] * 3 + [self.remove] * 2 + \
            [self.move] * 3 + [self.mkdir] * 3 + \
            [self.move_folder, self.remove_folder, self.chmod, self.link, self.set_time,
             self.hold]
        try:
            self.random.choice(kinds)(self.path())
        except OSError as error:
            if error.errno not in EXPECTED:
                raise

    def taken(self, path):
        """Opens a file, reads it and writes down that what it holds may be taken away."""
        self.is_reading = True
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            content = b""
            while more := os.read(file, 1 << 20):
                content += more
            one, other = os.fstat(file), os.lstat(path)
            if one.st_ino != other.st_ino:
                raise OSError(errno.ENOENT, "another file has the name now")
        except OSError:
            os.close(file)
            raise
        self.is_reading = False
        self.ledger.write(taken=tokens(content))
        return file

    def hold(self, path):
        """Keeps a file open for so long that others' changes arrive: it must not change meanwhile."""
        if self.random.random() < 0.7:
            return
        with open(path, "r+b") as file:
            self.is_reading = True
            before = file.read()
            time.sleep(self.random.choice((0.5, 3, 7)))
            file.seek(0)
            after = file.read()
            self.is_reading = False
            if before != after:
                raise Changed(f"{path} was open and changed: {before[:200]} {after[:200]}")
            token, text = self.text()
            file.write(text)
        self.ledger.added(token)

    def watch(self):
        """Watches files by inotify(7), as editors and indexers do: the kernel keeps them in memory,
        although they are not open. The watches end with the mount, and do not keep it in use."""
        if not self.may_watch:
            return
        if self.watches is None:
            self.watches = self.libc.inotify_init1(os.O_CLOEXEC)
        for folder, _, names in os.walk(self.top.parent):
            for name in names:
                if self.random.random() < 0.3:
                    self.libc.inotify_add_watch(self.watches, os.fsencode(os.path.join(folder, name)), 4)

    def append(self, path):
        """Appends a text to a file, or makes the file."""
        token, text = self.text()
        with open(path, "ab") as file:
            file.write(text)
        self.ledger.added(token)

    def save(self, path):
        """Saves as an editor does: a new file is renamed over the old one."""
        try:
            file = self.taken(path)
        except FileNotFoundError:
            file = None
        try:
            token, text = self.text()
            temporary = os.path.join(os.path.dirname(path), f".save-{self.number}-{self.count}")
            with open(temporary, "wb") as out:
                out.write(text)
            if file is None:
                # Only if nothing has the name meanwhile: it was not read.
                rename_to_new(temporary, path)
            else:
                os.rename(temporary, path)
            self.ledger.added(token)
        finally:
            if file is not None:
                os.close(file)

    def rewrite(self, path):
        """Writes a file anew in its place."""
        file = self.taken(path)
        try:
            token, text = self.text()
            out = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW)
            try:
                os.write(out, text)
            finally:
                os.close(out)
            self.ledger.added(token)
        finally:
            os.close(file)

    def remove(self, path):
        """Removes a name."""
        file = self.taken(path)
        try:
            os.unlink(path)
        finally:
            os.close(file)

    def move(self, path):
        """Gives a file another name, which another file may have."""
        new = self.path()
        try:
            file = self.taken(new)
        except FileNotFoundError:
            rename_to_new(path, new)
            return
        try:
            os.rename(path, new)
        finally:
            os.close(file)

    def mkdir(self, _):
        """Makes one of the usual folders."""
        os.makedirs(os.path.join(self.top, self.random.choice(FOLDERS[1:])), exist_ok=True)

    def move_folder(self, _):
        """Moves a folder to another place, where at most an empty one is."""
        one, other = self.random.sample(FOLDERS[1:], 2)
        os.rename(os.path.join(self.top, one), os.path.join(self.top, other))

    def remove_folder(self, _):
        """Removes a folder with everything in it."""
        top = os.path.join(self.top, self.random.choice(FOLDERS[1:]))
        for folder, folders, names in os.walk(top, topdown=False):
            for name in names:
                self.remove(os.path.join(folder, name))
            for name in folders:
                os.rmdir(os.path.join(folder, name))
        os.rmdir(top)

    def chmod(self, path):
        """Changes the mode of a file."""
        os.chmod(path, self.random.choice((0o644, 0o600, 0o640)))

    def link(self, path):
        """Gives a file a second name."""
        os.link(path, self.path(), follow_symlinks=False)

    def set_time(self, path):
        """Sets a time that is not now, as a wrong clock does."""
        then = self.random.randint(1_000_000_000, 2_000_000_000)
        os.utime(path, (then, then), follow_symlinks=False)
