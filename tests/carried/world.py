"""Some machines, their sync clients and what happens to them."""

import json
import select
import subprocess
import sys
import time
from pathlib import Path

import compare
from clients import files
from machine import Failed, Machine

HERE = Path(__file__).resolve().parent


class Writer:
    """The program that writes at one machine."""

    def __init__(self, machine, seed, watch):
        self.machine, self.counts = machine, {}
        self.errors = machine.folder / "worker"
        with open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-B", HERE / "worker.py", machine.mountpoint, machine.ledger,
                 str(machine.number), str(seed), watch], env=machine.environment(), text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)

    def ask(self, command):
        """Sends a command."""
        try:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed(f"{self.machine.name}: the writer ended: {self.said()}") from None

    def answer(self, patience):
        """Waits for the answer."""
        ready, _, _ = select.select([self.process.stdout], [], [], patience)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            what = "ended" if ready else f"hung for {patience:.0f} s"
            raise Failed(f"{self.machine.name}: the writer {what}: {self.said()}")
        self.counts = json.loads(line)

    def said(self):
        """The end of what it said on standard error."""
        return self.errors.read_text(errors="replace")[-1500:]

    def leave(self):
        """Ends the program."""
        self.process.kill()
        self.process.wait()


class Faults(dict):
    """Faults, each once; `lasting` ones are of such a kind that the play can go on with them."""

    def add(self, text, lasting=False):
        """Remembers a fault."""
        self.setdefault(text, lasting)

    def check(self, when):
        """Ends the play if there is a fault with which it cannot go on."""
        if not all(self.values()):
            raise Failed(when)


class World:
    """Plays phases: writing with and without clients, kills, and now and then everything settles."""

    def __init__(self, program, folder, chance, chosen, follow, client):
        self.folder, self.random = Path(folder), chance
        key = self.folder / "key"
        self.machines = [Machine(program, folder, number, key, follows)
                         for number, follows in enumerate(follow)]
        self.writers, self.faults = [], Faults()
        self.client = client(self.machines, folder)
        self.chosen, self.settled, self.conflicts, self.versions = chosen, 0, 0, 0
        self.started = time.monotonic()

    def log(self, text):
        """Writes down what happens, for whoever looks for a fault."""
        with open(self.folder / "log", "a", encoding="utf-8") as out:
            out.write(f"{time.time():.2f} {time.monotonic() - self.started:.1f} {text}\n")

    def play(self, seconds):
        """Plays the whole world."""
        first = self.machines[0]
        first.must("init", first.repo, "--key-out", first.key, "--device-name", first.name)
        everybody = range(len(self.machines))
        for at in everybody:
            self.client.start(at)
        self.until("the header has arrived everywhere", 60, lambda: all(
            any(machine.repo.glob("amberfs-*.amb")) for machine in self.machines))
        for machine in self.machines:
            machine.mount()
        self.writers = [Writer(machine, self.chosen.seed, self.chosen.watch) for machine in self.machines]
        end = time.monotonic() + seconds
        self.turn()
        while time.monotonic() < end:
            for _ in range(self.random.randint(1, 3)):
                self.phase()
            self.settle()
            self.judge()
            self.turn()
        self.settle()
        self.judge()
        self.check()

    def phase(self):
        """All machines write for some seconds; some clients rest meanwhile, and things are killed."""
        resting = [at for at in range(len(self.machines)) if self.random.random() < 0.4]
        seconds = self.random.uniform(5, 15)
        self.log(f"phase of {seconds:.0f} s; clients that rest: {resting}")
        for at in range(len(self.machines)):
            if at in resting:
                self.client.stop(at, kill=self.random.random() < 0.3)
            else:
                self.client.start(at)
        for writer in self.writers:
            writer.ask(f"go {seconds:.1f}")
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, self.random.uniform(0.5, 6)))
            if time.monotonic() < end:
                self.strike(resting)
        for writer in self.writers:
            writer.answer(180)
        for at, machine in enumerate(self.machines):
            machine.check_alive()
            if self.random.random() < (0.3 if machine.follow else 0.6):
                self.log(f"{machine.name} is mounted again")
                if machine.unmount():
                    self.mount(at)

    def strike(self, resting):
        """Kills a daemon or a client, or nobody."""
        at = self.random.randrange(len(self.machines))
        chance = self.random.random()
        if chance < 0.35:
            self.log(f"daemon of m{at} is killed")
            self.machines[at].kill(clear=self.random.random() < 0.5)
            time.sleep(self.random.choice((0, 0.5)))
            self.mount(at)
        elif chance < 0.6 and at not in resting:
            self.log(f"client of m{at} is killed")
            self.client.stop(at, kill=True)
            time.sleep(self.random.choice((0, 1)))
            self.client.start(at)

    def mount(self, at):
        """Mounts; if something is not here yet, its client has to run."""
        machine = self.machines[at]
        answer = machine.try_mount()
        if answer is None:
            return
        if answer[0] != 20:
            raise Failed(f"{machine.name}: mount ended with {answer[0]}: {answer[1][-2000:]}")
        self.log(f"{machine.name} waits: {answer[1]}")
        machine.refused += 1
        for other in range(len(self.machines)):
            self.client.start(other)
        machine.mount()

    def turn(self):
        """The next machine writes into the databases that are handed on."""
        at = self.settled % len(self.machines)
        self.log(f"turn of m{at}")
        self.writers[at].ask("turn 0")
        self.writers[at].answer(120)

    def until(self, what, patience, condition):
        """Waits until something is true."""
        end = time.monotonic() + patience
        while not condition():
            if time.monotonic() > end:
                raise Failed(f"not within {patience} s: {what}")
            self.client.check()
            time.sleep(0.3)

    def same_folders(self):
        """Whether all machines have the same files in REPO."""
        one = files(self.machines[0].repo)
        return all(files(machine.repo) == one for machine in self.machines[1:])

    def carried(self):
        """Everything is published and carried to all."""
        def is_published():
            """Whether `amberfs sync` succeeds everywhere."""
            synced = [machine.must("sync", machine.mountpoint, codes=(0, 20)) for machine in self.machines]
            return all(done.returncode == 0 for done in synced)
        for machine in self.machines:
            machine.check_alive()
        # What changes need that others made may be on its way.
        self.until("everything is in REPO", 120, is_published)
        self.until("the folders are equal", 180, self.same_folders)

    def settle(self):
        """Nobody writes: all machines come to the same tree, and then publish nothing more."""
        self.log("settle")
        for at in range(len(self.machines)):
            self.client.start(at)
        for number in range(8):
            before = self.machines[0].heads()
            self.carried()
            for at, machine in enumerate(self.machines):
                if not machine.follow:
                    self.until("a mount ends", 60, machine.unmount)
                    self.mount(at)
            self.carried()
            if number and self.machines[0].heads() == before:
                self.settled += 1
                self.log(f"settled after {number + 1} rounds")
                return
        raise Failed("heads are published again and again although nobody writes")

    def shown(self):
        """What each machine shows, or an error: names change, and content that has just arrived is
        found when the mount looks again."""
        trees = []
        for machine in self.machines:
            try:
                trees.append(compare.tree(machine.mountpoint))
            except OSError as error:
                self.log(f"{machine.name}: {error}")
                trees.append({f"{error}": machine.name})
        return trees

    def judge(self):
        """Compares what the machines show with each other and with what was written."""
        for at, writer in enumerate(self.writers):
            writer.ask(f"save {self.machines[at].folder}/expected")
            writer.answer(60)
        trees = self.shown()
        # A mount that follows looks every 5 seconds, and again after 15.
        end = time.monotonic() + 45
        while any(one != trees[0] for one in trees[1:]) and time.monotonic() < end:
            time.sleep(1)
            trees = self.shown()
        for machine, one in zip(self.machines[1:], trees[1:]):
            for line in compare.differences(trees[0], one)[:10]:
                self.faults.add(f"m0 and {machine.name} show: {line}", compare.is_time(line))
        for at, machine in enumerate(self.machines):
            expected = json.loads((machine.folder / "expected").read_text())
            for line in compare.own_differences(trees[0], at, expected)[:10]:
                self.faults.add(f"of {machine.name} and as it must be: {line}")
        written = compare.Written(self.machines)
        top = self.machines[0].mountpoint
        for token in compare.missing_texts(top, written):
            self.faults.add(f"text {token} of {written.added[token]} is nowhere")
        wrong, self.versions = compare.databases(top, written, self.folder / "scratch")
        for line in wrong:
            self.faults.add(line, "two names" in line)
        self.conflicts = sum("(from " in path for path in trees[0])
        self.tree = trees[0]
        self.faults.check(f"after {self.settled} times of settling")

    def check(self):
        """Unmounts, and compares what REPO holds for whoever opens it anew."""
        for machine in self.machines:
            self.until("a mount ends", 60, machine.unmount)
        self.until("the folders are equal", 180, self.same_folders)
        before = self.machines[0].heads()
        for at in range(len(self.machines)):
            self.mount(at)
        for machine in self.machines:
            self.until("a mount ends", 60, machine.unmount)
        if self.machines[0].heads() != before:
            self.faults.add("a mount without changes published a head")
        for at in range(len(self.machines)):
            self.client.stop(at, kill=False)
        for machine in self.machines:
            machine.must("check", machine.repo, "--read-data", "--key-file", machine.key)
            out = machine.folder / "out"
            machine.must("extract", machine.repo, out, "--key-file", machine.key)
            for line in compare.differences(self.tree, compare.tree(out))[:10]:
                self.faults.add(f"mount and {machine.name}'s extract: {line}", compare.is_time(line))
            for path in files(machine.repo):
                if ".sync-conflict-" in path or "..path" in path:
                    self.faults.add(f"a conflict of the client: {machine.name} {path}")

    def counts(self):
        """What was tried."""
        def total(name):
            """The sum of one count over all machines."""
            return sum(writer.counts.get(name, 0) for writer in self.writers)
        kills = sum(machine.kills for machine in self.machines)
        return (f"{total('writes')} writes, {total('fsyncs')} fsyncs, {kills} daemons killed, "
                f"{self.client.kills} clients killed, {len(self.machines[0].heads())} heads, "
                f"settled {self.settled} times, {self.conflicts} conflict files, "
                f"{self.versions} databases, {total('unreadable')} times not here yet, "
                f"{sum(machine.refused for machine in self.machines)} mounts refused (20), "
                f"{total('refused')} uses of databases failed")

    def leave(self):
        """Ends everything, and unmounts."""
        for machine in self.machines:
            for line in machine.panics():
                self.faults.add(f"{machine.name}: {line}")
        for writer in self.writers:
            writer.leave()
        for machine in self.machines:
            machine.leave()
        self.client.leave()
