"""SQLite databases in the mount: of one machine alone, handed on, and written by all at once."""

import os
import subprocess
import sys

MODES = {"wal": "WAL", "del": "DELETE"}


class Tables:
    """Starts a program for each use of a database: it may be killed and takes its memory map along."""

    def __init__(self, folder, ledger, number, chance):
        self.folder, self.ledger, self.number, self.random = folder, ledger, number, chance
        self.count = self.refused = 0

    def step(self):
        """Writes into one of the databases."""
        os.makedirs(self.folder, exist_ok=True)
        mode = self.random.choice(sorted(MODES))
        name = self.random.choice((f"own-{self.number}-{mode}", f"both-{mode}"))
        self.use(name, self.random.choice(("close", "close", "leave", "leave", "tear")))

    def turn(self):
        """Writes into the databases that are handed from machine to machine."""
        os.makedirs(self.folder, exist_ok=True)
        for mode in MODES:
            self.use(f"turn-{mode}", self.random.choice(("close", "leave", "tear")))

    def use(self, name, how):
        """Commits some rows. How it ends: closed, left as it is, or left in a transaction."""
        self.count += 1
        done = subprocess.run(
            [sys.executable, "-B", __file__, self.folder / f"{name}.db", self.ledger, name,
             f"{self.number}:{self.count}", str(self.random.randint(1, 12)), how],
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=60)
        self.refused += done.returncode != 0
        if done.returncode not in (0, 1) and done.returncode > 0:
            raise RuntimeError(f"{name}: {done.stderr}")


def use(path, ledger, name, first, rows, how):
    """Commits rows one by one, and writes down each that was committed."""
    import json
    import sqlite3

    try:
        base = sqlite3.connect(path, isolation_level=None, timeout=5)
        base.execute(f"PRAGMA journal_mode={MODES[name.rsplit('-', 1)[1]]}")
        base.execute("PRAGMA synchronous=EXTRA")
        base.execute("CREATE TABLE IF NOT EXISTS rows (token TEXT PRIMARY KEY, filler BLOB)")
        for number in range(rows):
            token = f"{first}:{number}"
            base.execute("INSERT INTO rows VALUES (?, randomblob(abs(random()) % 3000))", (token,))
            with open(ledger, "a", encoding="utf-8") as out:
                out.write(json.dumps({"row": [name, token]}) + "\n")
        if how == "close":
            base.close()
        elif how == "tear":
            # The cache spills into the file: with a journal that is hot then.
            base.execute("PRAGMA cache_size=5")
            base.execute("BEGIN IMMEDIATE")
            base.execute("UPDATE rows SET filler = randomblob(3000)")
            base.execute("INSERT INTO rows SELECT token || '-torn', randomblob(3000) FROM rows")
    except sqlite3.DatabaseError as error:
        print(error, file=sys.stderr)
        # 3: what no killed daemon and no missing object explains.
        os._exit(3 if "malformed" in str(error) or "not a database" in str(error) else 1)
    os._exit(0)


if __name__ == "__main__":
    path, ledger, name, first, rows, how = sys.argv[1:]
    use(path, ledger, name, first, int(rows), how)
