"""What people and their programs do to a folder of chats: `edits.py NAME FOLDER`.

A process of its own, so that it can be given up if the folder hangs.
"""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import source

MANY = 5000
JSON_TAIL = b"\n ]\n}\n"


def prepare(folder, big_mib, json_mb, seed=1):
    """Writes `many` (files of some kB), `big` (nothing to compress) and `result.json` (as Telegram exports)."""
    draw = random.Random(seed)
    for n in range(MANY):
        path = folder / "many" / str(n % 20) / f"{n:05}.opus"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw.randbytes(draw.randint(2_000, 14_000)))
    with open(folder / "big", "wb") as file:
        for _ in range(big_mib):
            file.write(draw.randbytes(1 << 20))
    vocabulary = source.words(draw)
    with open(folder / "result.json", "wb") as file:
        file.write(b'{\n "messages": [\n')
        number, length = 0, 0
        while length < json_mb * 1_000_000:
            length += file.write(message(draw, vocabulary, number))
            number += 1
        file.write(message(draw, vocabulary, number, end=b"") + JSON_TAIL)


def message(draw, vocabulary, number, end=b",\n"):
    text = " ".join(draw.choices(vocabulary, k=draw.randint(2, 24)))
    return f'  {{"id": {number}, "from_id": "user{draw.randint(1, 40)}", "text": "{text}"}}'.encode() + end


def rename(folder):
    os.rename(folder / "many", folder / "renamed")


def touch(folder):
    for parent, _, names in os.walk(folder):
        for name in names:
            os.utime(os.path.join(parent, name))


def page(folder):
    with open(folder / "big", "r+b") as file:
        file.seek(os.path.getsize(folder / "big") // 2)
        file.write(random.Random("page").randbytes(4096))
        file.flush()
        os.fsync(file.fileno())


def append(folder):
    """The program exports anew: same file, one message more."""
    old, new = folder / "result.json", folder / "result.json.new"
    draw = random.Random("append")
    shutil.copyfile(old, new)
    with open(new, "r+b") as file:
        file.seek(-len(JSON_TAIL), os.SEEK_END)
        file.write(b",\n" + message(draw, source.words(draw), 10**7, end=b"") + JSON_TAIL)
    os.rename(new, old)


def copy(folder):
    subprocess.run(["cp", "-a", folder / "renamed", folder / "copy"], check=True)


def chat(folder):
    """A chat app with its database open: one message for each line of standard input."""
    database = sqlite3.connect(folder / "msgstore.db", isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    draw = random.Random("chat")
    vocabulary = source.words(draw)
    for number, _ in enumerate(sys.stdin):
        text = " ".join(draw.choices(vocabulary, k=draw.randint(1, 20)))
        now = 1_800_000_000_000 + number * 60_000
        database.execute("BEGIN")
        row = database.execute(
            "INSERT INTO message (chat_row_id, from_me, key_id, sender_jid_row_id, status, timestamp, "
            "received_timestamp, message_type, text_data, sort_id) VALUES (?, 0, ?, ?, 0, ?, ?, 0, ?, ?)",
            (draw.randint(1, 200), draw.randbytes(16).hex().upper(), draw.randint(1, 500), now, now, text, now),
        ).lastrowid
        database.execute("INSERT INTO message_ftsv2 (docid, content) VALUES (?, ?)", (row, text))
        database.execute(
            "INSERT INTO receipt_user (message_row_id, receipt_user_jid_row_id, receipt_timestamp) VALUES (?, ?, ?)",
            (row, draw.randint(1, 500), now),
        )
        database.execute("COMMIT")
        print(number, flush=True)
    database.close()


EDITS = {
    "rename": ("the folder of 5,000 files renamed", rename),
    "touch": ("all files touched", touch),
    "page": ("4 KiB changed inside the big file", page),
    "append": ("the JSON export written anew, one message more", append),
    "copy": ("the folder of 5,000 files copied beside itself", copy),
}

if __name__ == "__main__":
    name, where = sys.argv[1:]
    (chat if name == "chat" else EDITS[name][1])(Path(where))
