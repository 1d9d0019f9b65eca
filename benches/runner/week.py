"""`make bench-week`: what a sync client uploads, a day of chats at a time, and after common edits."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import crypt15
import edits
import subjects
import targets
from bench import OUT, chosen, say
from place import Place
from shell import Failed, run
from upload import Upload

CHATS = targets.RELEASE / "examples" / "chats"
PROFILE = os.environ.get("PROFILE", "week")
DAYS = int(os.environ.get("DAYS", "7"))
MINUTES = int(os.environ.get("MINUTES", "1440"))
BIG_MIB = int(os.environ.get("BIG", "1024"))
JSON_MB = int(os.environ.get("JSON", "200"))
PATIENT = 60  # messages for a file system that takes seconds to write back


def phone_day(phone, day):
    """Lets the day happen on the phone; returns the new bytes in it."""
    common = ["--profile", PROFILE, "--seed", "1"]
    step = ["generate", phone] if day == 0 else ["advance", phone, "--day", day]
    words = run([CHATS, *step, *common], timeout=1200).split()
    return int(words[words.index("of") - 1])


class Table:
    """One row a day or edit, one column a subject."""

    def __init__(self, title, names, extra=None):
        self.title, self.names, self.extra, self.rows = title, names, extra, []

    def row(self, label, cells, extra=None):
        self.rows.append((label, cells, extra))
        said = "; ".join(f"{name} {cell if isinstance(cell, str) else cell.text()}" for name, cell in cells.items())
        say(f"{self.title}: {label}: {said}")

    def markdown(self):
        head = [""] + ([self.extra] if self.extra else []) + list(self.names)
        lines = [f"{self.title}:", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for label, cells, extra in self.rows:
            row = [label] + ([extra] if self.extra else [])
            for name in self.names:
                cell = cells.get(name, "-")
                row.append(cell if isinstance(cell, str) else cell.text())
            lines.append(f"| {' | '.join(row)} |")
        return [*lines, ""]

    def plain(self):
        """For JSON."""
        value = lambda cell: cell if isinstance(cell, str) else vars(cell)
        return {
            "title": self.title,
            "rows": [
                {"what": label, "extra": extra, **{name: value(cell) for name, cell in cells.items()}}
                for label, cells, extra in self.rows
            ],
        }


class Weeks:
    """The subjects that are here, and the tables so far."""

    def __init__(self, place, names):
        self.place, self.names, self.tables = place, names, []

    def subject(self, name, part):
        return subjects.make(name, self.place.path / part)

    def begin(self, title, extra=None):
        table = Table(title, self.names, extra)
        self.tables.append(table)
        return table

    def week(self, part, encrypted):
        kind = ", its databases encrypted by the phone, afresh each day" if encrypted else ""
        table = self.begin(f"A week of chats (profile {PROFILE}){kind}", "new bytes in the folder")
        phone = self.place.path / f"phone-{part}"
        source = self.place.path / f"crypt-{part}" if encrypted else phone
        source.mkdir(exist_ok=True)
        every = [self.subject(name, part) for name in self.names]
        for day in range(DAYS + 1):
            new = phone_day(phone, day)
            if encrypted:
                crypt15.mirror(phone, source, day)
            cells = {subject.name: self.day(subject, source) for subject in every}
            table.row(f"day {day}", cells, "-" if encrypted or not day else f"{new / 1e6:.2f} MB")
        for subject in every:
            subject.remove()
        shutil.rmtree(phone)
        shutil.rmtree(source, ignore_errors=True)

    def day(self, subject, source):
        """Copied in as people do it, and away again."""
        try:
            subject.open()
            run(["rsync", "-a", "--delete", f"{source}/", f"{subject.folder}/"], timeout=1200)
            if subject.name == "plain":
                return subject.watch.look()
            subject.close()
            return subject.watch.look()
        except Failed as failure:
            return f"failed: {failure}"

    def chat_day(self):
        table = self.begin(f"A chat app with its database (WAL) on the mount, {MINUTES} messages, one a minute")
        phone = self.place.path / "phone-chat"
        phone_day(phone, 0)
        database = phone / "WhatsApp" / "Databases" / "msgstore.db"
        eager, evening = {}, {}
        for name in self.names:
            try:
                eager[name], evening[name] = self.chat(name, database)
            except Failed as failure:
                eager[name] = f"failed: {failure}"
        table.row("a client that uploads after each message", eager)
        table.row("a client that uploads once, in the evening", evening)
        shutil.rmtree(phone)

    def chat(self, name, database):
        subject = self.subject(name, "chat")
        subject.open()
        shutil.copyfile(database, subject.folder / "msgstore.db")
        if subject.live and name != "plain":
            subject.close()
            subject.open()
        elif not subject.live:
            subject.close()
        subject.watch.look()
        start = dict(subject.watch.known)
        count = min(MINUTES, PATIENT) if name == "cryfs" else MINUTES
        total = Upload()
        command = [sys.executable, str(Path(__file__).with_name("edits.py")), "chat", str(subject.folder)]
        app = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        began = time.monotonic()
        for _ in range(count):
            app.stdin.write("\n")
            app.stdin.flush()
            if not app.stdout.readline():
                raise Failed(f"chat app on {name}: exit code {app.wait(10)}")
            if subject.live:
                subject.pause()
                total.add(subject.watch.look())
        app.stdin.close()
        app.wait(60)
        if name != "plain":
            subject.close()
        total.add(subject.watch.look())
        say(f"chat: {name}: {count} messages in {time.monotonic() - began:.0f} s")
        subject.watch.known = start
        evening = subject.watch.look()
        subject.remove()
        if not subject.live:
            return "-", evening
        if count < MINUTES:
            total = f"{total.text()} for {count} messages"
            return total, f"{evening.text()} for {count} messages"
        return total, evening

    def edits(self):
        table = self.begin("Edits, one after the other")
        source = self.place.path / "edits-source"
        source.mkdir()
        edits.prepare(source, BIG_MIB, JSON_MB)
        cells = {}
        for name in self.names:
            say(f"edits: {name}")
            subject = self.subject(name, "edits")
            column = self.edit_one(subject, source)
            for label, cell in column.items():
                cells.setdefault(label, {})[name] = cell
            subject.remove()
        for label, row in cells.items():
            table.row(label, row)
        shutil.rmtree(source)

    def edit_one(self, subject, source):
        """All edits on one subject; what each made to upload."""
        column = {f"{edits.MANY:,} files, {BIG_MIB} MiB and {JSON_MB} MB copied in": self.day(subject, source)}
        script = Path(__file__).with_name("edits.py")
        for edit, (label, _) in edits.EDITS.items():
            try:
                subject.open()
                run([sys.executable, script, edit, subject.folder], timeout=600)
                if subject.name != "plain":
                    subject.close()
                column[label] = subject.watch.look()
                say(f"  {label}: {column[label].text()}")
            except Failed as failure:
                column[label] = f"failed: {failure}"
                break
        return column

    def save(self):
        OUT.mkdir(parents=True, exist_ok=True)
        text = "\n".join(line for table in self.tables for line in table.markdown())
        (OUT / "week.md").write_text(text, encoding="utf-8")
        (OUT / "week.json").write_text(json.dumps([table.plain() for table in self.tables], indent=1), encoding="utf-8")
        return text


def main():
    names = []
    usual = os.environ.get("TARGETS") and subjects.NAMES or subjects.USUAL
    for name in chosen("TARGETS", {name: name for name in usual}):
        reason = subjects.missing(name)
        if reason:
            say(f"left out: {name}: {reason}")
        else:
            names.append(name)
    with Place(os.environ.get("WHERE") or str(OUT)) as place:
        weeks = Weeks(place, names)
        cases = {
            "week": lambda: weeks.week("week", False),
            "crypt15": lambda: weeks.week("crypt15", True),
            "chat": weeks.chat_day,
            "edits": weeks.edits,
        }
        try:
            for case in chosen("CASES", cases):
                case()
                weeks.save()
        finally:
            for name in names:
                for part in cases:
                    targets.force_umount(place.path / part / name / "mnt")
    print(weeks.save())
