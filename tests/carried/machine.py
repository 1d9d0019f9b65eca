"""One machine: its copy of REPO, its own local state and home folder, and its mount."""

import os
import signal
import subprocess
import time
from pathlib import Path

# What no command or mount may take longer for.
PATIENCE = 90


class Failed(Exception):
    """Something that amberfs must not do."""


def is_mounted(mountpoint):
    """Whether the kernel shows a mount there that answers."""
    try:
        return os.path.ismount(mountpoint)
    except OSError:
        return False


class Machine:
    """A machine with one mount of the repository. All its folders are below `folder`."""

    def __init__(self, program, folder, number, key, follow):
        self.program, self.number, self.key, self.follow = program, number, key, follow
        self.name = f"m{number}"
        self.folder = Path(folder) / self.name
        # REPO lies in a folder of its own: next to it no mountpoint is allowed.
        self.repo = self.folder / "synced" / "repo"
        self.mountpoint = self.folder / "mnt"
        self.ledger = self.folder / "ledger"
        for below in ("synced/repo", "state", "home", "run", "mnt"):
            (self.folder / below).mkdir(parents=True)
        for private in ("state", "run"):
            (self.folder / private).chmod(0o700)
        self.daemon = None
        self.kills = self.mounts = self.refused = 0
        # Nothing is written below the mount while nothing is mounted.
        subprocess.run(["chattr", "+i", self.mountpoint], stderr=subprocess.DEVNULL)

    def environment(self):
        """The variables of this machine's programs, and no others that amberfs reads."""
        kept = {name: value for name, value in os.environ.items()
                if not name.startswith(("AMBERFS_", "XDG_", "RCLONE_"))}
        return kept | {
            "HOME": str(self.folder / "home"),
            "XDG_STATE_HOME": str(self.folder / "state"),
            "XDG_RUNTIME_DIR": str(self.folder / "run"),
            "RUST_BACKTRACE": "1",
        }

    def run(self, *arguments, timeout=PATIENCE):
        """Runs one command of amberfs, and returns what came of it."""
        try:
            return subprocess.run([self.program, *map(str, arguments)], env=self.environment(),
                                  timeout=timeout, text=True, capture_output=True,
                                  stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name}: amberfs {arguments[0]} took {timeout} s") from None

    def must(self, *arguments, codes=(0,)):
        """Runs one command of amberfs, which must end with one of these codes."""
        done = self.run(*arguments)
        if done.returncode not in codes:
            raise Failed(f"{self.name}: amberfs {arguments[0]} ended with {done.returncode}: "
                         f"{(done.stderr + done.stdout)[-2000:]}")
        return done

    def try_mount(self):
        """Mounts. Returns none if the mount is usable, else the exit code and the messages."""
        options = "checkpoint=2s,10s" + (",follow" if self.follow else "")
        log = self.folder / f"mount-{self.mounts}"
        self.mounts += 1
        command = [self.program, "mount", str(self.repo), str(self.mountpoint), "-f", "-v",
                   "--key-file", str(self.key), "-o", options, "--log-file", f"{log}.log"]
        with open(f"{log}.err", "wb") as errors:
            self.daemon = subprocess.Popen(command, env=self.environment(), stdin=subprocess.DEVNULL,
                                           stdout=errors, stderr=errors)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if self.daemon.poll() is not None:
                code, self.daemon = self.daemon.returncode, None
                return code, Path(f"{log}.err").read_text(errors="replace")
            if is_mounted(self.mountpoint):
                return None
            time.sleep(0.05)
        raise Failed(f"{self.name}: the mount was not usable after {PATIENCE} s")

    def mount(self, patience=PATIENCE):
        """Mounts. As long as something is not here yet (20), it is tried again."""
        end = time.monotonic() + patience
        while (answer := self.try_mount()) is not None:
            code, said = answer
            if code != 20 or time.monotonic() > end:
                raise Failed(f"{self.name}: mount ended with {code}: {said[-2000:]}")
            self.refused += 1
            time.sleep(1)

    def unmount(self):
        """Unmounts; everything must be in REPO then. Returns whether nothing that is on its way
        (20) keeps it from that."""
        if self.must("umount", self.mountpoint, codes=(0, 20)).returncode == 20:
            return False
        try:
            code = self.daemon.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name}: the daemon did not end after umount") from None
        self.daemon = None
        if code != 0:
            raise Failed(f"{self.name}: the daemon ended with {code} after umount")
        return True

    def kill(self, clear):
        """Kills the daemon. `clear`: what it leaves is cleared away by `amberfs umount`."""
        self.check_alive()
        self.kills += 1
        # The writer may sleep from the kill to the next mount.
        (self.folder / "kills").write_text("x" * self.kills)
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait(PATIENCE)
        self.daemon = None
        if clear:
            self.must("umount", self.mountpoint, codes=(3,))

    def check_alive(self):
        """The daemon must not have ended by itself."""
        code = self.daemon.poll()
        if code is not None:
            self.daemon = None
            raise Failed(f"{self.name}: the daemon ended by itself with {code}")

    def leave(self):
        """Unmounts and ends what is left, whatever became of the test."""
        if self.daemon is not None:
            try:
                self.run("umount", self.mountpoint)
                self.daemon.wait(20)
            except (Failed, subprocess.TimeoutExpired):
                self.daemon.kill()
                self.daemon.wait()
        subprocess.run(["umount", "-l", self.mountpoint], stderr=subprocess.DEVNULL)
        subprocess.run(["chattr", "-i", self.mountpoint], stderr=subprocess.DEVNULL)

    def panics(self):
        """Lines of the mounts' logs that tell of a panic."""
        found = []
        for log in sorted(self.folder.glob("mount-*")):
            lines = log.read_text(errors="replace").splitlines()
            found += [f"{log.name}: {line}" for line in lines if "panicked" in line]
        return found

    def heads(self):
        """Names of the heads in this machine's REPO."""
        return {str(path.relative_to(self.repo)) for path in self.repo.glob("*/head/*.amb")}
