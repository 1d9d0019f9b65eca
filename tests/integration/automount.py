"""A small automounter: automount.py MOUNTPOINT COMMAND...

Puts a direct autofs mount on MOUNTPOINT and says so by a line. Runs COMMAND at
the first request, in its own process group as service managers do, and answers
all requests once something is mounted.
"""
import ctypes, fcntl, os, struct, subprocess, sys, time

READY, FAIL = 0x9360, 0x9361
mountpoint, command = sys.argv[1], sys.argv[2:]
os.setpgrp()
requests, kernel = os.pipe()
options = f"fd={kernel},pgrp={os.getpgrp()},minproto=5,maxproto=5,direct"
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"automount", mountpoint.encode(), b"autofs", 0, options.encode()):
    sys.exit(os.strerror(ctypes.get_errno()))
os.close(kernel)
root = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY)
print("ready", flush=True)
answer = None
while packet := os.read(requests, 4096):
    if answer is None:
        child, answer = subprocess.Popen(command), FAIL
        for _ in range(200):
            lines = [line.split() for line in open("/proc/self/mountinfo")]
            if any(line[4] == mountpoint and "fuse.amberfs" in line for line in lines):
                answer = READY
            if answer == READY or child.poll() is not None:
                break
            time.sleep(0.1)
    token = struct.unpack_from("iiI", packet)[2]
    fcntl.ioctl(root, answer, token)
