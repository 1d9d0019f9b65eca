"""System calls for the tests of docs/semantics.md that the Rust library below
them has not. calls.py NAME PATH...: prints what came of it, or the errno."""

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
AT_FDCWD = -100


def named(number):
    # One number has two names on Linux.
    return "EOPNOTSUPP" if number == errno.EOPNOTSUPP else errno.errorcode[number]


def syscall(number, *arguments):
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(number, *wide)
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def path_of(name):
    return ctypes.c_char_p(os.fsencode(name))


def ficlone(to, source):
    fcntl.ioctl(os.open(to, os.O_RDWR), 0x40049409, os.open(source, os.O_RDONLY))


def ficlonerange(to, source):
    what = struct.pack("qQQQ", os.open(source, os.O_RDONLY), 0, 4096, 0)
    fcntl.ioctl(os.open(to, os.O_RDWR), 0x4020940D, what)


def fidedupe(to, source):
    what = struct.pack("QQHHI", 0, 4096, 1, 0, 0)
    what += struct.pack("qQQiI", os.open(to, os.O_RDWR), 0, 0, 0, 0)
    fcntl.ioctl(os.open(source, os.O_RDONLY), 0xC0189436, what)


def fiemap(name):
    fcntl.ioctl(os.open(name, os.O_RDONLY), 0xC020660B, struct.pack("QQIIII", 0, 1 << 40, 0, 0, 0, 0))


def getflags(name):
    fcntl.ioctl(os.open(name, os.O_RDONLY), 0x80086601, bytes(8))


def setflags(name):
    fcntl.ioctl(os.open(name, os.O_RDONLY), 0x40086602, bytes(8))


def getproject(name):
    fcntl.ioctl(os.open(name, os.O_RDONLY), 0x801C581F, bytes(28))


def setproject(name):
    fcntl.ioctl(os.open(name, os.O_RDONLY), 0x401C5820, bytes(28))


def fallocate(name, mode, offset, length):
    if libc.fallocate(os.open(name, os.O_RDWR), int(mode, 0), int(offset), int(length)):
        raise OSError(ctypes.get_errno(), "")


def quotactl(name):
    # Q_GETQUOTA of user 0.
    syscall(443, os.open(name, os.O_RDONLY), 0x800007 << 8, 0, ctypes.create_string_buffer(256))


def swapon(name):
    syscall(167, path_of(os.path.abspath(name)), 0)


def syncfs(name):
    os.sync()
    if libc.syncfs(os.open(name, os.O_RDONLY)):
        raise OSError(ctypes.get_errno(), "")


def link_max(name):
    return os.pathconf(name, "PC_LINK_MAX")


def tmpfile(folder):
    os.open(folder, os.O_TMPFILE | os.O_RDWR)


def birth(name):
    shown = ctypes.create_string_buffer(256)
    syscall(332, AT_FDCWD, path_of(name), 0, 0xFFF, shown)
    return "shown" if struct.unpack_from("I", shown, 0)[0] & 0x800 else "not shown"


def idmapped(folder):
    # OPEN_TREE_CLONE; then MOUNT_ATTR_IDMAP with a namespace that maps 0 to 1000.
    tree = syscall(428, AT_FDCWD, path_of(folder), 1)
    go, child = os.pipe(), os.fork()
    if child == 0:
        syscall(272, 0x10000000)
        os.write(go[1], b"x")
        signal.pause()
    os.read(go[0], 1)
    for what in ("uid_map", "gid_map"):
        with open(f"/proc/{child}/{what}", "w") as out:
            out.write("0 1000 1")
    namespace = os.open(f"/proc/{child}/ns/user", os.O_RDONLY)
    os.kill(child, 9)
    attributes = ctypes.create_string_buffer(struct.pack("QQQQ", 0x100000, 0, 0, namespace), 32)
    syscall(442, tree, path_of(""), 0x1000, attributes, 32)


def whiteout(source, to):
    syscall(316, AT_FDCWD, path_of(source), AT_FDCWD, path_of(to), 4)


def handle_of(name):
    """What names the inode to open_by_handle_at(2)."""
    at = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
    mount_id = ctypes.c_int()
    syscall(303, AT_FDCWD, path_of(name), at, ctypes.byref(mount_id), 0)
    return at.raw[: 8 + struct.unpack_from("I", at)[0]].hex()


def opened(folder, handle):
    """What is there, by a handle."""
    at = ctypes.create_string_buffer(bytes.fromhex(handle))
    mount = os.open(folder, os.O_RDONLY)
    found = syscall(304, mount, at, os.O_PATH | os.O_NOFOLLOW)
    kind = os.fstat(found).st_mode & 0o170000
    if kind == 0o120000:
        return "link: " + os.readlink("", dir_fd=found)
    found = syscall(304, mount, at, os.O_RDONLY)
    if kind == 0o040000:
        # Its own place is found again, by way of its parents.
        assert os.stat("..", dir_fd=found).st_mode & 0o170000 == kind
        return "folder: " + " ".join(sorted(os.listdir(found)))
    return "file: " + os.read(found, 100).decode()


def opened_unknown(folder, handle):
    """The same with another inode number in it."""
    raw = bytearray.fromhex(handle)
    raw[9] ^= 0x55
    return opened(folder, raw.hex())


def bypasses(name):
    """Whether writes to a new file bypass the cache: a page of it then is not resident."""
    file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.write(file, bytes(4096))
    memory, resident = mmap.mmap(file, 4096), ctypes.create_string_buffer(1)
    syscall(27, ctypes.addressof(ctypes.c_char.from_buffer(memory)), 4096, resident)
    return "cached" if resident.raw[0] & 1 else "bypasses"


def old_stat(name):
    """stat(2) of a 32-bit program: its number is 106 there."""
    page = mmap.mmap(-1, 8192, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40, prot=7)
    at = ctypes.addressof(ctypes.c_char.from_buffer(page))
    name = os.fsencode(os.path.abspath(name)) + b"\0"
    page[4096 : 4096 + len(name)] = name
    code = b"\x53\xb8" + struct.pack("I", 106) + b"\xbb" + struct.pack("I", at + 4096)
    code += b"\xb9" + struct.pack("I", at + 8000) + b"\xcd\x80\x5b\xc3"
    page[: len(code)] = code
    return named(-ctypes.CFUNCTYPE(ctypes.c_int)(at)())


def mapped(name):
    """Two processes map a file; one more reads and writes it."""
    file = os.open(name, os.O_RDWR)
    ask, answer = os.pipe(), os.pipe()
    shared = mmap.mmap(file, 8192)
    child = os.fork()
    if child == 0:
        other = mmap.mmap(os.open(name, os.O_RDWR), 8192)
        for _ in range(2):
            os.read(ask[0], 1)
            other[4096:4100] = bytes(b + 1 for b in other[0:4])
            os.write(answer[1], b"x")
        os._exit(0)
    private = mmap.mmap(file, 8192, flags=mmap.MAP_PRIVATE, prot=3)
    os.pwrite(file, b"aaaa", 0)
    os.write(ask[1], b"x")
    os.read(answer[0], 1)
    assert os.pread(file, 4, 4096) == b"bbbb"
    shared[0:4] = b"cccc"
    os.write(ask[1], b"x")
    os.read(answer[0], 1)
    assert shared[4096:4100] == b"dddd"
    private[0:4] = b"mine"
    assert os.pread(file, 4, 0) == b"cccc"
    os.waitpid(child, 0)
    return "coherent"


def locked(name):
    """Both kinds of locks keep another process out, and do not know each other."""
    first = os.open(name, os.O_RDWR)
    seen = []
    for take in (lambda file, how: fcntl.flock(file, how), lambda file, how: fcntl.lockf(file, how, 10, 5)):
        take(first, fcntl.LOCK_EX)
        for step in range(2):
            child = os.fork()
            if child == 0:
                try:
                    take(os.open(name, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os._exit(1)
                os._exit(0)
            seen.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            if step == 0:
                take(first, fcntl.LOCK_UN)
    assert seen == [1, 0, 1, 0], seen
    return "locks"


def names_after(folder, cookie):
    """Names after a cookie, each with its own."""
    libc.opendir.restype = ctypes.c_void_p
    libc.readdir.restype = ctypes.c_void_p
    libc.readdir.argtypes = [ctypes.c_void_p]
    libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
    stream = libc.opendir(path_of(folder))
    if int(cookie):
        libc.seekdir(stream, int(cookie))
    found = []
    while entry := libc.readdir(stream):
        head = ctypes.string_at(entry, 19)
        found.append(f"{struct.unpack_from('q', head, 8)[0]} {os.fsdecode(ctypes.string_at(entry + 19))}")
    return "\n".join(found)


try:
    print(globals()[sys.argv[1]](*sys.argv[2:]) or "success")
except OSError as error:
    print(named(error.errno))
