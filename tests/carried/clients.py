"""Real sync clients that carry REPO from machine to machine, on this machine alone."""

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import xml.etree.ElementTree as xml
from pathlib import Path

from machine import Failed

# What clients keep in the folder for themselves.
OF_CLIENTS = re.compile(r"(^|/)\.stfolder(/|$)|(^|/)\.stversions(/|$)|(^|/)\.syncthing\.|\.tmp$")


def files(folder):
    """Paths and sizes of all files in a folder but those of sync clients."""
    found = {}
    for path, _, names in os.walk(folder):
        for name in names:
            full = os.path.join(path, name)
            short = os.path.relpath(full, folder)
            if not OF_CLIENTS.search(short):
                try:
                    found[short] = os.stat(full).st_size
                except FileNotFoundError:
                    pass
    return found


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Syncthing:
    """One Syncthing for each machine, all connected with each other by 127.0.0.1."""

    PROGRAM = "syncthing"

    def __init__(self, machines, folder):
        self.machines, self.running, self.kills = machines, {}, 0
        self.homes = [Path(folder) / f"syncthing-{machine.name}" for machine in machines]
        self.ports = [free_port() for _ in machines]
        ids = [self.generate(home) for home in self.homes]
        for at, home in enumerate(self.homes):
            self.configure(at, home / "config.xml", ids)

    @staticmethod
    def generate(home):
        """Makes the keys of an instance, and returns its id."""
        done = subprocess.run(
            ["syncthing", "generate", f"--home={home}", "--no-default-folder", "--skip-port-probing"],
            check=True, capture_output=True, text=True, env=os.environ | {"HOME": str(home.parent)})
        return re.search(r"Device ID: (\S+)", done.stdout + done.stderr)[1]

    def configure(self, at, path, ids):
        """Writes the configuration of one instance: nothing leaves the loopback interface."""
        tree = xml.parse(path)
        root = tree.getroot()
        for device in root.findall("device"):
            root.remove(device)
        root.find("gui/address").text = f"127.0.0.1:{free_port()}"
        values = {
            "listenAddress": f"tcp://127.0.0.1:{self.ports[at]}", "globalAnnounceEnabled": "false",
            "localAnnounceEnabled": "false", "relaysEnabled": "false", "natEnabled": "false",
            "startBrowser": "false", "urAccepted": "-1", "autoUpgradeIntervalH": "0",
            "crashReportingEnabled": "false", "stunKeepaliveStartS": "0",
            "announceLANAddresses": "false", "reconnectionIntervalS": "2", "urURL": "",
            "crashReportingURL": "", "releasesURL": "", "stunServer": "",
        }
        for name, value in values.items():
            root.find(f"options/{name}").text = value
        folder = xml.SubElement(root, "folder", {
            "id": "repo", "label": "repo", "path": str(self.machines[at].repo), "type": "sendreceive",
            "rescanIntervalS": "10", "fsWatcherEnabled": "true", "fsWatcherDelayS": "1"})
        for other, identity in enumerate(ids):
            xml.SubElement(folder, "device", {"id": identity})
            device = xml.SubElement(root, "device", {"id": identity, "name": self.machines[other].name})
            xml.SubElement(device, "address").text = f"tcp://127.0.0.1:{self.ports[other]}"
        tree.write(path)

    def start(self, at):
        """Starts the client of one machine, if it does not run."""
        if at in self.running:
            return
        # Without this variable a second process watches over the first.
        variables = {"STMONITORED": "yes", "STNOUPGRADE": "1", "HOME": str(self.homes[at].parent)}
        with open(f"{self.homes[at]}.log", "ab") as log:
            self.running[at] = subprocess.Popen(
                ["syncthing", "serve", f"--home={self.homes[at]}", "--no-browser", "--no-upgrade"],
                env=os.environ | variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def stop(self, at, kill):
        """Ends the client of one machine, if it runs, with SIGKILL or as usual."""
        process = self.running.pop(at, None)
        if process is None:
            return
        self.kills += kill
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def check(self):
        """The clients that were started must still run."""
        for at, process in self.running.items():
            if process.poll() is not None:
                raise Failed(f"syncthing of {self.machines[at].name} ended with {process.returncode}")

    def leave(self):
        """Ends all clients."""
        for at in list(self.running):
            self.stop(at, kill=False)


class Bisync:
    """`rclone bisync` of each machine with one folder that stands for a cloud, again and again.

    A cloud shows a file when it is whole, which a folder does not: so one client runs at a time.
    """

    PROGRAM = "rclone"

    def __init__(self, machines, folder):
        self.machines, self.running, self.kills, self.resyncs = machines, {}, 0, 0
        self.folder, self.cloud = Path(folder), Path(folder) / "cloud"
        self.cloud.mkdir()
        self.turn = threading.Lock()
        self.current = {}

    def start(self, at):
        """Starts the loop of one machine, if it does not run."""
        if at not in self.running:
            ending = threading.Event()
            thread = threading.Thread(target=self.loop, args=(at, ending), daemon=True)
            self.running[at] = (thread, ending)
            thread.start()

    def stop(self, at, kill):
        """Ends the loop of one machine; with `kill` the program in the middle of its work."""
        if at not in self.running:
            return
        thread, ending = self.running.pop(at)
        end = time.monotonic() + (5 if kill else 0)
        while time.monotonic() < end:
            process = self.current.get(at)
            if process is not None and process.poll() is None:
                # In the middle of a file, if it is long.
                time.sleep(0.3)
                process.kill()
                self.kills += 1
                break
            time.sleep(0.05)
        ending.set()
        thread.join(120)

    def loop(self, at, ending):
        """Runs bisync every two seconds. After a failure everything is compared anew first."""
        work = self.folder / f"bisync-{self.machines[at].name}"
        fresh = work.exists() and not any(work.glob("*.lck")) and any(work.glob("*.lst"))
        while not ending.is_set():
            with self.turn:
                if not ending.is_set():
                    fresh = self.once(at, work, fresh)
            ending.wait(2)

    def once(self, at, work, fresh):
        """Runs bisync once. Returns whether its lists are right for the next time."""
        repo = str(self.machines[at].repo)
        if not fresh:
            # A killed client leaves half files, and --resync takes what is at the machine for right.
            self.resyncs += 1
            shutil.rmtree(work, ignore_errors=True)
            own = self.own(at)
            self.rclone(at, "copy", str(self.cloud), repo, *(f"--exclude={name}/**" for name in own))
            for name in own:
                self.rclone(at, "copy", f"{repo}/{name}", str(self.cloud / name))
        resync = [] if fresh else ["--resync"]
        done = self.rclone(at, "bisync", repo, str(self.cloud), "--workdir", str(work), *resync)
        return done == 0

    def own(self, at):
        """Names of the folders in REPO that only this machine writes: of its own devices."""
        state = self.machines[at].folder / "state"
        known = {path.name for path in self.machines[at].repo.iterdir() if path.is_dir()}
        others = {path.name for path in self.cloud.iterdir() if path.is_dir()}
        mine = self.folder / f"own-{self.machines[at].name}"
        noted = set(mine.read_text().split()) if mine.exists() else set()
        noted |= known - others if state.exists() else set()
        mine.write_text("\n".join(sorted(noted)))
        return sorted(noted)

    def rclone(self, at, *arguments):
        """Runs rclone, and returns its exit code."""
        config = self.folder / "rclone.conf"
        config.touch()
        with open(self.folder / f"rclone-{self.machines[at].name}.log", "ab") as log:
            log.write(f"== {time.time():.1f} {arguments}\n".encode())
            log.flush()
            self.current[at] = process = subprocess.Popen(
                # Slow, so that files are half there for a while: rclone writes under their names.
                ["rclone", f"--config={config}", *arguments, "--bwlimit=1M", "-v"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.machines[at].environment())
        return process.wait()

    def check(self):
        """The loops that were started must still run."""
        for at, (thread, _) in self.running.items():
            if not thread.is_alive():
                raise Failed(f"the loop of {self.machines[at].name} ended")

    def leave(self):
        """Ends all loops."""
        for at in list(self.running):
            self.stop(at, kill=False)
