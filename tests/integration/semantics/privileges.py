"""What each change of content or owner leaves of suid and sgid, as ext4 has it on
Linux 6.18. privileges.py NAME FOLDER: prints what is otherwise; run by root."""

import ctypes
import errno
import mmap
import os
import stat
import struct
import subprocess
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
KEEP, PUNCH, ZERO = 1, 3, 16
CAP_FSETID = 4
PAGE = 4096


def syscall(number, *arguments):
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(number, *wide)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def aligned(byte, size=PAGE):
    memory = mmap.mmap(-1, size)
    memory[:] = byte * size
    return memory


def in_background(file, memory, offset=0):
    """Writes by io_submit(2), and waits for the end."""
    context = ctypes.c_ulong()
    syscall(206, 8, ctypes.byref(context))
    at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    block = struct.pack("QIiHhIQQqQII", 0, 0, 0, 1, 0, file, at, len(memory), offset, 0, 0, 0)
    block = ctypes.create_string_buffer(block, len(block))
    blocks = (ctypes.c_void_p * 1)(ctypes.addressof(block))
    assert syscall(209, context, 1, blocks) == 1
    event = ctypes.create_string_buffer(32)
    assert syscall(208, context, 1, 1, event, None) == 1
    syscall(207, context)
    written = struct.unpack("QQqq", event.raw)[2]
    assert written == len(memory), written


def mapped(file):
    with mmap.mmap(file, PAGE) as memory:
        memory[0:1] = b"m"
        memory.flush()


def copied(call):
    def run(path):
        source = os.open(os.path.dirname(path) + "/source", os.O_RDONLY)
        to = os.open(path, os.O_WRONLY)
        assert call(source, to) == PAGE

    return run


def opened(flags, change=lambda file: None):
    def run(path):
        change(os.open(path, flags))

    return run


def allocated(mode, offset, length):
    return opened(os.O_WRONLY, lambda file: syscall(285, file, mode, offset, length))


W = os.O_WRONLY
CONTENT = {
    "write": opened(W, lambda file: os.pwrite(file, b"x", 0)),
    "append": opened(W | os.O_APPEND, lambda file: os.write(file, b"x")),
    "O_SYNC": opened(W | os.O_SYNC, lambda file: os.pwrite(file, b"x", 0)),
    "O_DIRECT": opened(W | os.O_DIRECT, lambda file: os.pwritev(file, [aligned(b"d")], 0)),
    "O_DIRECT in the background": opened(W | os.O_DIRECT, lambda file: in_background(file, aligned(b"d"))),
    "in the background": opened(W, lambda file: in_background(file, aligned(b"b"))),
    "O_TRUNC": opened(W | os.O_TRUNC),
    "O_TRUNC for reading": opened(os.O_RDONLY | os.O_TRUNC),
    "truncate": lambda path: os.truncate(path, 10),
    "truncate to the same": lambda path: os.truncate(path, 2 * PAGE),
    "ftruncate": opened(W, lambda file: os.ftruncate(file, 9000)),
    "allocate": allocated(0, 0, 20000),
    "allocate what is there": allocated(0, 0, PAGE),
    "allocate beyond the end": allocated(KEEP, 0, 20000),
    "punch a hole": allocated(PUNCH, 0, PAGE),
    "zero": allocated(ZERO, 0, PAGE),
    "zero and keep the size": allocated(ZERO | KEEP, 0, PAGE),
    "copy_file_range": copied(lambda source, to: os.copy_file_range(source, to, PAGE)),
    "sendfile": copied(lambda source, to: os.sendfile(to, source, 0, PAGE)),
}
NOTHING = {
    "read": opened(os.O_RDONLY, lambda file: os.read(file, 10)),
    "write nothing": opened(W, lambda file: os.write(file, b"")),
    "mmap": opened(os.O_RDWR, mapped),
}
OWNER = {
    "chown to nobody": lambda path: os.chown(path, -1, -1),
    "chown to the same": lambda path: os.chown(path, os.stat(path).st_uid, -1),
    "chgrp to the same": lambda path: os.chown(path, -1, os.stat(path).st_gid),
    "chgrp": lambda path: os.chown(path, -1, 3000),
}
# User, group, other groups, without CAP_FSETID. The file is of user and group 1000.
ACTORS = {
    "root": (0, 0, [], False),
    "root without the capability": (0, 0, [], True),
    "owner": (1000, 1000, [3000], False),
    "owner in another group": (1000, 1001, [3000], False),
    "other": (1001, 1001, [], False),
    "other in the group": (1001, 1001, [1000], False),
}
AFTER_CONTENT = {
    0o6777: (0o6777, 0o777, 0o777, 0o777, 0o777, 0o777),
    0o6767: (0o6767, 0o767, 0o2767, 0o767, 0o767, 0o2767),
    0o4777: (0o4777, 0o777, 0o777, 0o777, 0o777, 0o777),
    0o2777: (0o2777, 0o777, 0o777, 0o777, 0o777, 0o777),
    0o2767: (0o2767, 0o767, 0o2767, 0o767, 0o767, 0o2767),
}
# Others may not, and nothing changes.
AFTER_OWNER = {
    0o6777: (0o777, 0o777, 0o777, 0o777),
    0o6767: (0o2767, 0o767, 0o2767, 0o767),
    0o4777: (0o777, 0o777, 0o777, 0o777),
    0o2777: (0o777, 0o777, 0o777, 0o777),
    0o2767: (0o2767, 0o767, 0o2767, 0o767),
}
KINDS = {"file": None, "fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK, "device": stat.S_IFCHR, "folder": stat.S_IFDIR}


def mode_of(path):
    """The mode alone, so that the kernel need not ask for anything else."""
    shown = ctypes.create_string_buffer(256)
    syscall(332, -100, ctypes.c_char_p(os.fsencode(path)), 0x100, 2, shown)
    return struct.unpack_from("H", shown, 28)[0] & 0o7777


def make(path, kind):
    if kind == "file":
        with open(path, "wb") as file:
            file.write(b"c" * 2 * PAGE)
    elif kind == "folder":
        os.mkdir(path)
    else:
        os.mknod(path, KINDS[kind] | 0o600, os.makedev(1, 3))


def remove(path):
    if os.path.isdir(path):
        os.rmdir(path)
    else:
        os.unlink(path)


def become(user, group, groups, without):
    if without:
        head, sets = struct.pack("Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
        assert libc.capget(head, sets) == 0
        words = list(struct.unpack("6I", sets.raw))
        words[:3] = [word & ~(1 << CAP_FSETID) for word in words[:3]]
        assert libc.capset(head, struct.pack("6I", *words)) == 0
    os.setgroups(groups)
    os.setgid(group)
    os.setuid(user)


def as_actor(actor, work):
    child = os.fork()
    if child == 0:
        try:
            become(*ACTORS[actor])
            work()
            os._exit(0)
        except PermissionError:
            os._exit(1)
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def tried(folder, kind, operations, expected):
    path, wrong = folder + "/tried", []
    for name, run in operations.items():
        for mode, all_left in AFTER_CONTENT.items():
            for index, actor in enumerate(ACTORS):
                left, code = expected(name, mode, index)
                make(path, kind)
                os.chown(path, 1000, 1000)
                os.chmod(path, mode)
                assert mode_of(path) == mode
                came = as_actor(actor, lambda: run(path))
                found = mode_of(path), os.stat(path).st_mode & 0o7777, came
                if found != (left, left, code):
                    wrong.append(f"{kind}, {name} by {actor}: {mode:o} to {found[0]:o}, {found[1]:o} and {came}, not {left:o} and {code}")
                remove(path)
    return wrong


def after_owner(kind):
    def expected(name, mode, index):
        if kind != "folder" and index < 4:
            return AFTER_OWNER[mode][index], 0
        # A change of nothing is refused to others only if it would clear something.
        nobody = name == "chown to nobody"
        clears = kind != "folder" and (index == 4 or mode != 0o2767)
        return mode, int(index >= 4 and (not nobody or clears))

    return expected


def changes(folder):
    with open(folder + "/source", "wb") as file:
        file.write(b"s" * 2 * PAGE)
    wrong = tried(folder, "file", CONTENT, lambda _, mode, index: (AFTER_CONTENT[mode][index], 0))
    wrong += tried(folder, "file", NOTHING, lambda _, mode, index: (mode, 0))
    for kind in KINDS:
        wrong += tried(folder, kind, OWNER, after_owner(kind))
    return "\n".join(wrong)


def capability(folder):
    """A file's own capability goes with each change of its content, whoever makes it."""
    path, wrong = folder + "/capable", []
    with open(folder + "/source", "wb") as file:
        file.write(b"s" * 2 * PAGE)
    for name, run in CONTENT.items():
        for actor in ("root", "other"):
            make(path, "file")
            os.chmod(path, 0o777)
            os.setxattr(path, "security.capability", struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0))
            as_actor(actor, lambda: run(path))
            if "security.capability" in os.listxattr(path):
                wrong.append(f"{name} by {actor}")
            remove(path)
    return "\n".join(wrong)


def opened_before(folder):
    """The file was not special yet when it was opened."""
    path, wrong = folder + "/before", []
    ways = {
        "write": (W, lambda file: os.pwrite(file, b"x", 0)),
        "O_DIRECT": (W | os.O_DIRECT, lambda file: os.pwritev(file, [aligned(b"d")], 0)),
        "in the background": (W | os.O_DIRECT, lambda file: in_background(file, aligned(b"d"))),
    }
    for name, (flags, write) in ways.items():
        for mode, left in AFTER_CONTENT.items():
            make(path, "file")
            os.chown(path, 1000, 1000)
            os.chmod(path, 0o777)
            file = os.open(path, flags)
            os.chmod(path, mode)
            assert mode_of(path) == mode
            as_actor("other", lambda: write(file))
            if mode_of(path) != left[4]:
                wrong.append(f"{name}: {mode:o} to {mode_of(path):o}")
            os.close(file)
            remove(path)
    return "\n".join(wrong)


def run_meanwhile(folder):
    """One user overwrites a program of root's again and again, another runs it: the new
    content never runs with root's rights, right afterwards or at the same time."""
    path, wrong = folder + "/program", set()
    old, new = (open(f"/usr/bin/{name}", "rb").read() for name in ("id", "whoami"))
    length = max(len(old), len(new))
    length += -length % PAGE
    old, new = old.ljust(length, b"\0"), new.ljust(length, b"\0")

    def said():
        try:
            return subprocess.run([path], capture_output=True, text=True, check=False).stdout
        except OSError:
            # Open for writing, or half written.
            return ""

    def writable(flags):
        while True:
            try:
                return os.open(path, os.O_WRONLY | flags)
            except OSError as error:
                # It runs just now.
                if error.errno != errno.ETXTBSY:
                    raise

    def overwritten(flags, write):
        file = writable(flags)
        write(file)
        os.close(file)
        if said() == "root\n":
            os._exit(3)

    def direct(call):
        memory = mmap.mmap(-1, length)
        memory[:] = new
        return lambda file: call(file, memory)

    ways = {
        "write": (0, lambda file: os.pwrite(file, new, 0)),
        "O_TRUNC": (os.O_TRUNC, lambda file: os.write(file, new)),
        "O_DIRECT": (os.O_DIRECT, direct(lambda file, memory: os.pwritev(file, [memory], 0))),
        "in the background": (os.O_DIRECT, direct(in_background)),
    }
    for name, (flags, write) in ways.items():
        for _ in range(25):
            with open(path, "wb") as file:
                file.write(old)
            os.chmod(path, 0o4777)
            runner = os.fork()
            if runner == 0:
                become(1002, 1002, [], False)
                for _ in range(8):
                    if said() == "root\n":
                        os._exit(3)
                os._exit(0)
            came = as_actor("other", lambda: overwritten(flags, write))
            beside = os.waitstatus_to_exitcode(os.waitpid(runner, 0)[1])
            if 3 in (came, beside):
                wrong.add(f"{name}: runs as root, afterwards {came == 3}, meanwhile {beside == 3}")
            elif came or beside:
                wrong.add(f"{name}: {came}, {beside}")
            os.unlink(path)
    return "\n".join(sorted(wrong))


if __name__ == "__main__":
    print(globals()[sys.argv[1]](os.path.abspath(sys.argv[2])))
