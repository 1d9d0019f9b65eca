"""A tree of source code that exists nowhere: the same one for the same seed, another for another.

Each round unpacks another one, or a file system that keeps equal content once would write nothing
in the second.
"""

import random
import tarfile

from shell import run

FOLDERS, FILES = 60, 1200
MEDIAN_SIZE = 4000


def words(draw):
    letters = "etaoinsrhldcumfpgwybvk"
    return ["".join(draw.choices(letters, k=draw.randint(2, 9))) for _ in range(3000)]


def text(draw, vocabulary, size):
    lines, length = [], 0
    while length < size:
        line = "    " * draw.randint(0, 4) + " ".join(draw.choices(vocabulary, k=draw.randint(1, 10))) + ";\n"
        lines.append(line)
        length += len(line)
    return "".join(lines)


def write_tree(folder, seed):
    """Writes FILES files below FOLDER/tree; returns how many names that is, folders included."""
    draw = random.Random(seed)
    vocabulary = words(draw)
    top = folder / "tree"
    parents = [top]
    top.mkdir(parents=True)
    for n in range(FOLDERS):
        parent = draw.choice(parents) / f"{draw.choice(vocabulary)}{n}"
        parent.mkdir()
        parents.append(parent)
    for n in range(FILES):
        size = min(int(draw.lognormvariate(0, 1.2) * MEDIAN_SIZE), 400_000)
        path = draw.choice(parents) / f"{draw.choice(vocabulary)}{n}.c"
        path.write_text(text(draw, vocabulary, size), encoding="ascii")
    return FOLDERS + FILES


def make(folder, seed):
    """Makes the tree, its tar file and its git repository; returns what work.py wants to know."""
    folder.mkdir(parents=True)
    count = write_tree(folder, seed)
    top, tar = folder / "tree", folder / "tree.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(top, "tree")
    git = ["git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-C", top]
    for step in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "tree"], ["gc", "-q"]):
        run([*git, *step], timeout=120)
    return {"TREE_FILES": str(count), "TREE_TAR": str(tar), "TREE_GIT": str(top)}
