"""What a sync client has to upload: files that are new or hold something else than before."""

import hashlib
import os
from dataclasses import dataclass


@dataclass
class Upload:
    """Since the last look. A file whose content was there under another name is `moved`: good clients see that."""

    files: int = 0
    bytes: int = 0
    moved: int = 0
    removed: int = 0

    def add(self, other):
        self.files += other.files
        self.bytes += other.bytes
        self.moved += other.moved
        self.removed += other.removed

    def text(self):
        more = f", {self.moved:,} moved" if self.moved else ""
        return f"{self.bytes / 1e6:,.2f} MB, {self.files:,} files{more}"


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


class Watch:
    """Looks at a folder again and again, as a client does: whole files, by content."""

    def __init__(self, folder):
        self.folder = folder
        self.known = {}  # path: (stamp, digest)

    def look(self):
        seen, changed = {}, []
        for parent, _, names in os.walk(self.folder):
            for name in names:
                path = os.path.join(parent, name)
                status = os.lstat(path)
                stamp = (status.st_size, status.st_mtime_ns, status.st_ino)
                old = self.known.get(path)
                if old and old[0] == stamp:
                    seen[path] = old
                else:
                    changed.append((path, stamp))
        gone = {self.known[path][1] for path in self.known.keys() - seen.keys()}
        found = Upload()
        for path, stamp in changed:
            content = digest(path)
            seen[path] = (stamp, content)
            old = self.known.get(path)
            if old and old[1] == content:
                continue
            if not old and content in gone and stamp[0]:
                found.moved += 1
            else:
                found.files += 1
                found.bytes += stamp[0]
        found.removed = len(self.known.keys() - seen.keys())
        self.known = seen
        return found
