"""Running other programs, never without a limit: one of them may sit on a file system that hangs."""

import os
import subprocess

ROOT = os.geteuid() == 0


class Failed(Exception):
    """A program ended badly or not at all; the text is for people."""


def run(command, *, timeout=60, env=None, stdin=None, cwd=None, ok=(0,)):
    """Standard output of COMMAND as text."""
    what = " ".join(str(word) for word in command[:3])
    process = subprocess.Popen(
        [str(word) for word in command],
        env=env,
        cwd=cwd,
        stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        out, err = process.communicate(stdin, timeout)
    except subprocess.TimeoutExpired:
        # Whatever waits for a hung mount cannot be reaped before the mount is gone.
        os.killpg(process.pid, 9)
        raise Failed(f"{what}: not done after {timeout} s") from None
    if process.returncode not in ok:
        last = (err.strip() or out.strip() or "no message").splitlines()[-1]
        raise Failed(f"{what}: exit code {process.returncode}: {last}")
    return out


def is_mounted(folder):
    """By the kernel's table: asking the folder itself could hang."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as table:
        return any(line.split(" ")[4] == str(folder) for line in table)


def force_umount(folder):
    """Takes away what is mounted at FOLDER, dead or alive."""
    if is_mounted(folder):
        tool = ["umount", "-f", "-l"] if ROOT else ["fusermount3", "-u", "-z"]
        subprocess.run([*tool, str(folder)], stderr=subprocess.DEVNULL, timeout=30, check=False)


def drop_caches():
    """Empties the page cache and the caches of names; only root may."""
    if ROOT:
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as knob:
            knob.write("3")
