"""A folder that one machine alone writes: what it must hold is known exactly."""

import errno
import hashlib
import os
import shutil
import stat

MODES = (0o644, 0o600, 0o664, 0o755, 0o444)


class File:
    """What a file must hold, under however many names."""

    def __init__(self, content, mode):
        self.content, self.mode = content, mode


class Wrong(Exception):
    """The folder does not hold what it must."""


class Own:
    """The folder, and by path what is in it: a `File`, or the mode of a folder, or a symlink's text."""

    def __init__(self, top, chance):
        self.top, self.random = top, chance
        self.tree, self.touched, self.next = {}, set(), 0

    def full(self, path):
        """The path of an entry in the mount."""
        return self.top / path

    def touch(self, *paths):
        """What is at these paths and below may be in any state after a crash."""
        self.touched.update(paths)

    def synced(self):
        """An fsync returned: from here on nothing may be in an older state."""
        self.touched = set()

    def files(self):
        """Paths of all files."""
        return [path for path, what in self.tree.items() if isinstance(what, File)]

    def folders(self):
        """Paths of all folders, the top one as the empty path."""
        return [""] + [path for path, what in self.tree.items() if isinstance(what, int)]

    def new_path(self):
        """A path that nothing has, in any folder."""
        self.next += 1
        folder = self.random.choice(self.folders())
        return os.path.join(folder, f"n{self.next}")

    def bytes(self):
        """Some content: mostly little, now and then much."""
        size = int(self.random.choice((0, 10, 200, 3000, 20_000, 150_000)) * self.random.random())
        # So much that a head and its objects are several files.
        if self.random.random() < 0.02:
            size = 3_000_000
        return self.random.randbytes(size)

    def step(self):
        """Changes something."""
        self.top.mkdir(exist_ok=True)
        kinds = [self.create] * 4 + [self.append] * 5 + [self.save] * 5 + [self.overwrite] * 3 + \
            [self.truncate, self.move, self.move, self.replace, self.remove, self.remove, self.mkdir,
             self.remove_folder, self.move_folder, self.chmod, self.link, self.symlink]
        kind = self.random.choice(kinds)
        if kind in (self.create, self.mkdir, self.symlink):
            kind(self.new_path())
        elif kind in (self.remove_folder, self.move_folder):
            if len(self.folders()) > 2:
                kind(self.random.choice(self.folders()[1:]))
        elif self.files():
            kind(self.random.choice(self.files()))

    def create(self, path):
        """Makes a file."""
        file = File(self.bytes(), self.random.choice(MODES))
        self.touch(path)
        self.write(path, file)
        self.tree[path] = file

    def write(self, path, file):
        """Writes a new file with its mode."""
        # A daemon that was killed during a save may have left the file that was to be renamed.
        with open(self.full(path), "wb" if path.endswith("~") else "xb") as out:
            out.write(file.content)
        os.chmod(self.full(path), file.mode)

    def names(self, file):
        """All paths of a file."""
        return [path for path, what in self.tree.items() if what is file]

    def append(self, path):
        """Appends to a file."""
        more, file = self.bytes(), self.tree[path]
        self.touch(*self.names(file))
        with open(self.full(path), "ab") as out:
            out.write(more)
        file.content += more

    def overwrite(self, path):
        """Writes over a part of a file."""
        file, more = self.tree[path], self.bytes()[:5000]
        at = self.random.randint(0, len(file.content))
        self.touch(*self.names(file))
        with open(self.full(path), "r+b") as out:
            out.seek(at)
            out.write(more)
        file.content = file.content[:at] + more + file.content[at + len(more):]

    def truncate(self, path):
        """Makes a file shorter, or longer by zeros."""
        file = self.tree[path]
        size = self.random.randint(0, len(file.content) + 100)
        self.touch(*self.names(file))
        os.truncate(self.full(path), size)
        file.content = file.content[:size].ljust(size, b"\0")

    def save(self, path):
        """Saves as an editor does: a new file is renamed over the old one."""
        temporary = f"{path}~"
        file = File(self.bytes(), self.tree[path].mode)
        self.touch(path, temporary)
        self.write(temporary, file)
        if self.random.random() < 0.5:
            self.flush(temporary)
        os.rename(self.full(temporary), self.full(path))
        self.tree[path] = file

    def flush(self, path):
        """Has one file made durable."""
        with open(self.full(path), "rb") as file:
            os.fsync(file)

    def move(self, path):
        """Gives a file another name."""
        new = self.new_path()
        self.touch(path, new)
        os.rename(self.full(path), self.full(new))
        self.tree[new] = self.tree.pop(path)

    def replace(self, path):
        """Renames a file over another one."""
        other = self.random.choice(self.files())
        if self.tree[path] is self.tree[other]:
            return
        self.touch(path, other)
        os.rename(self.full(path), self.full(other))
        self.tree[other] = self.tree.pop(path)

    def remove(self, path):
        """Removes a name of a file."""
        self.touch(path)
        os.unlink(self.full(path))
        del self.tree[path]

    def mkdir(self, path):
        """Makes a folder."""
        self.touch(path)
        os.mkdir(self.full(path), 0o755)
        self.tree[path] = 0o755

    def below(self, path):
        """Paths of what is in a folder, deep down, and of the folder."""
        return [other for other in self.tree if other == path or other.startswith(f"{path}/")]

    def remove_folder(self, path):
        """Removes a folder with everything in it."""
        self.touch(path)
        shutil.rmtree(self.full(path))
        for other in self.below(path):
            del self.tree[other]

    def move_folder(self, path):
        """Moves a folder into another one."""
        new = self.new_path()
        if new.startswith(f"{path}/"):
            return
        self.touch(path, new)
        os.rename(self.full(path), self.full(new))
        for other in self.below(path):
            self.tree[new + other[len(path):]] = self.tree.pop(other)

    def chmod(self, path):
        """Changes the mode of a file."""
        file, mode = self.tree[path], self.random.choice(MODES)
        self.touch(*self.names(file))
        os.chmod(self.full(path), mode)
        file.mode = mode

    def link(self, path):
        """Gives a file a second name."""
        new = self.new_path()
        self.touch(new)
        os.link(self.full(path), self.full(new))
        self.tree[new] = self.tree[path]

    def symlink(self, path):
        """Makes a symlink that leads nowhere."""
        self.touch(path)
        os.symlink(f"nowhere/{self.next}", self.full(path))
        self.tree[path] = f"nowhere/{self.next}"

    def peek(self):
        """Reads a file of another machine's folder. Returns whether all of it is here."""
        folders = [path for path in self.top.parent.glob("own-*") if path != self.top]
        found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        try:
            if found:
                self.random.choice(sorted(found)).read_bytes()
        except OSError as error:
            if error.errno not in (errno.EIO, errno.ENOENT, errno.ESTALE):
                raise
            return error.errno != errno.EIO
        return True

    def read(self):
        """What is in the mount."""
        tree, numbers = {}, {}
        for folder, folders, names in os.walk(self.top, onerror=self.unless_missing):
            for name in folders + names:
                full = os.path.join(folder, name)
                path, status = os.path.relpath(full, self.top), os.lstat(full)
                if path == "flushed":
                    continue
                if stat.S_ISLNK(status.st_mode):
                    tree[path] = os.readlink(full)
                elif stat.S_ISDIR(status.st_mode):
                    tree[path] = stat.S_IMODE(status.st_mode)
                elif status.st_ino in numbers:
                    tree[path] = numbers[status.st_ino]
                else:
                    with open(full, "rb") as file:
                        content = file.read()
                    tree[path] = numbers[status.st_ino] = File(content, stat.S_IMODE(status.st_mode))
        return tree

    @staticmethod
    def unless_missing(error):
        """Raises what is wrong with a folder; that it is not there shows in the comparison."""
        if not isinstance(error, FileNotFoundError):
            raise error

    def recover(self):
        """Compares, and goes on from what is there: what was not synced may be there or not."""
        there = self.read()
        for path in sorted(set(there) | set(self.tree)):
            up = path
            while up and up not in self.touched:
                up = os.path.dirname(up)
            if not up and describe(self.tree.get(path)) != describe(there.get(path)):
                raise Wrong(f"{self.top}/{path}: {describe(there.get(path))}, "
                            f"not {describe(self.tree.get(path))}")
        self.tree = there

    def listing(self):
        """By path what must be there, as `describe` says it."""
        return {path: describe(what) for path, what in self.tree.items()}


def describe(what):
    """Type, mode, size and hash of an entry; none if there is none."""
    if isinstance(what, File):
        return ["file", what.mode, len(what.content), hashlib.sha256(what.content).hexdigest()[:16]]
    return what if what is None else ["folder", what] if isinstance(what, int) else ["symlink", what]
