"""`make bench`: amberfs beside its peers, the same jobs in one run, in short slices that alternate."""

import json
import os
import platform
import sys
from pathlib import Path

import flushes
import jobs
import picture
import report
import source
import targets
from place import Place
from shell import ROOT, Failed, drop_caches, run

OUT = Path(__file__).resolve().parents[2] / "target" / "bench"


def say(text):
    print(text, file=sys.stderr, flush=True)


def chosen(variable, known):
    """The names in a variable, all of them if it is empty, in the order of KNOWN."""
    wanted = os.environ.get(variable, "").replace(",", " ").split()
    unknown = set(wanted) - set(known)
    if unknown:
        sys.exit(f"{variable}: no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return [known[name] for name in known if not wanted or name in wanted]


def available(recipes):
    """Those that are here; the others are said aloud."""
    found = []
    for recipe in recipes:
        reason = targets.missing(recipe)
        if reason:
            say(f"left out: {recipe.name}: {reason}")
        else:
            found.append(recipe)
    return found


class Run:
    """All slices over one place."""

    def __init__(self, place, recipes, wanted):
        self.place, self.recipes, self.jobs = place, recipes, wanted
        self.slice = float(os.environ.get("SLICE", "1"))
        self.rounds = int(os.environ.get("ROUNDS", "3"))
        self.size = int(os.environ.get("SIZE", "256"))
        self.files = int(os.environ.get("FILES", "1000"))
        self.samples, self.failures, self.mounted, self.loads = [], [], [], []

    def fail(self, target, what, failure):
        text = f"{self.place.kind}: {target.name}: {what}: {failure}"
        say(f"  {text}")
        self.failures.append(text)

    def start(self):
        for recipe in self.recipes:
            target = targets.Target(recipe, self.place.path / recipe.name)
            self.mounted.append(target)
            try:
                target.mount()
            except Failed as failure:
                self.give_up(target, "left out", failure)

    def give_up(self, target, what, failure):
        self.fail(target, what, failure)
        target.remove()
        self.mounted.remove(target)

    def all_rounds(self):
        """Rounds outside, then jobs, then targets: what else the machine does meets all alike."""
        for number in range(self.rounds):
            scratch = self.place.path / f"source{number}"
            tree = source.make(scratch, seed=number)
            self.loads.append(os.getloadavg()[0])
            print(f"{self.place.kind}: round {number + 1} of {self.rounds}, load {self.loads[-1]:.1f}:", end="", file=sys.stderr)
            for count, job in enumerate(self.jobs):
                print(f" {job.name}", end="", file=sys.stderr, flush=True)
                turn = (number + count) % max(len(self.mounted), 1)
                for target in self.mounted[turn:] + self.mounted[:turn]:
                    self.one(number, job, target, tree)
            say("")
            run(["rm", "-rf", scratch])

    def one(self, number, job, target, tree):
        env = jobs.settings(target.folder, self.size, self.slice, self.files, tree)
        try:
            jobs.ready(job, target.folder, env)
            target.settle()
            self.place.sync()
            drop_caches()
            targets.forget_peak(target.pid)
            value = jobs.measure(job, target.folder, env)
            peak = targets.peak_kib(target.pid)
            settled = target.settle() if job.writes else 0.0
            self.place.sync()
        except (Failed, OSError, ValueError) as failure:
            self.fail(target, job.name, failure)
            alive = target.process is None or target.process.poll() is None
            try:
                run(["ls", target.folder], timeout=20)
            except Failed:
                alive = False
            if not alive:
                self.give_up(target, "left out from here", failure)
            return
        self.samples.append(
            {
                "job": job.name, "target": target.name, "round": number, "value": value,
                "peak_kib": peak, "settle_s": round(settled, 3),
            }
        )

    def end(self):
        for target in list(self.mounted):
            try:
                target.umount()
            except Failed as failure:
                self.fail(target, "umount", failure)
            target.kill()

    def result(self):
        return {
            "where": self.place.where, "kind": self.place.kind, "samples": self.samples,
            "failures": self.failures, "rounds": self.rounds, "size_mib": self.size,
            "slice_s": self.slice, "files": self.files, "loads": self.loads,
        }


def fsync_check(recipes):
    """On a disk, wherever the jobs run: on tmpfs there is nothing to flush."""
    with Place(str(OUT)) as place:
        try:
            return flushes.per_fsync(recipes, place.path, say)
        except Failed as failure:
            say(f"whether fsync is real was not checked: {failure}")
            return {}


def save(result):
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "bench.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    text = report.markdown(result)
    (OUT / "bench.md").write_text(text, encoding="utf-8")
    (OUT / "bench.svg").write_text(picture.svg(result), encoding="utf-8")
    return text


def main():
    recipes = available(chosen("TARGETS", targets.BY_NAME))
    wanted = chosen("JOBS", jobs.BY_NAME)
    where = os.environ.get("WHERE", "").replace(",", " ").split() or ["tmpfs", str(OUT)]
    if cores := int(os.environ.get("CORES", "0")):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    if not ROOT:
        say("not root: caches are not emptied between jobs, so reads come from memory")
    result = {
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release().split("-")[0],
        "versions": {recipe.name: targets.version(recipe) for recipe in recipes},
        "flushes": fsync_check(recipes),
        "places": [],
    }
    for folder in where:
        try:
            with Place(folder) as place:
                one = Run(place, recipes, wanted)
                try:
                    one.start()
                    one.all_rounds()
                finally:
                    one.end()
                result["places"].append(one.result())
        except Failed as failure:
            say(f"{folder} left out: {failure}")
        text = save(result)
    print(text)
