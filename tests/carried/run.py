"""Machines that write to one repository, which real sync clients carry between them.

    run.py [--seed N] [--seconds N] [--client syncthing|rclone] [--machines 2|3]
           [--follow no|yes|mixed] [--watch no|yes] [--keep]

Without --client both are played, one after the other. AMBERFS is the program to try, and
AMBERFS_TEST_FACTOR makes everything longer. As root, or as a user who may use /dev/fuse.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from clients import Bisync, Syncthing
from machine import Failed
from world import World

ROOT = Path(__file__).resolve().parent.parent.parent
CLIENTS = {"syncthing": Syncthing, "rclone": Bisync}


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000)
    parser.add_argument("--seconds", type=float,
                        default=100 * float(os.environ.get("AMBERFS_TEST_FACTOR", "1")))
    parser.add_argument("--client", choices=sorted(CLIENTS))
    parser.add_argument("--machines", type=int, choices=(2, 3))
    parser.add_argument("--follow", choices=("no", "yes", "mixed"))
    parser.add_argument("--watch", choices=("no", "yes"), default="yes",
                        help="whether programs watch files by inotify(7)")
    parser.add_argument("--keep", action="store_true")
    return parser.parse_args()


def why_not(client, program):
    """Why this cannot be played here, or none."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be used"
    if shutil.which(CLIENTS[client].PROGRAM) is None:
        return f"{CLIENTS[client].PROGRAM} is not installed"
    return None if os.access(program, os.X_OK) else f"{program} is not there; AMBERFS names another"


def play(client, program, chosen):
    """Plays one world. Returns whether everything was as it must be."""
    chance = random.Random(f"{chosen.seed}-{client}")
    machines = chosen.machines or chance.choice((2, 3))
    kind = chosen.follow or chance.choice(("no", "yes", "mixed"))
    follow = [kind == "yes" or kind == "mixed" and number % 2 == 0 for number in range(machines)]
    print(f"{client}: seed {chosen.seed}, {machines} machines, follow {kind}, "
          f"{chosen.seconds:.0f} s", flush=True)
    folder = tempfile.mkdtemp(prefix="carried-")
    started = time.monotonic()
    world = World(program, folder, chance, chosen, follow, CLIENTS[client])
    try:
        world.play(chosen.seconds)
    except Failed as failure:
        world.faults.add(str(failure))
    except (OSError, ValueError) as error:
        world.faults.add(f"the test itself: {error!r}")
        traceback.print_exc()
    finally:
        world.leave()
    faults = world.faults
    for fault in faults:
        print(f"{client}: FAILED: {fault}")
    print(f"{client}: {world.counts()}, {time.monotonic() - started:.0f} s, {len(faults)} faults", flush=True)
    if chosen.keep or faults:
        print(f"{client}: everything is in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return not faults


def main():
    """Plays what was asked for."""
    chosen = arguments()
    # Ended from outside it unmounts and ends the clients too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    os.umask(0o022)
    program = os.path.abspath(os.environ.get("AMBERFS") or ROOT / "target" / "debug" / "amberfs")
    good = True
    for client in [chosen.client] if chosen.client else ["syncthing", "rclone"]:
        if (why := why_not(client, program)) is not None:
            print(f"SKIPPED: {client}: {why}")
            continue
        good &= play(client, program, chosen)
    return 0 if good else 1


sys.exit(main())
