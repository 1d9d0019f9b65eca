"""A phone's folder as it is when the phone encrypts its databases itself.

Like `msgstore.db.crypt15`: compressed, then encrypted under a key stream that is another one each
day, so that nothing of yesterday's file is in today's. The bytes are random ones of that length.
"""

import random
import shutil
import zlib
from pathlib import Path

from shell import run


def mirror(phone, folder, day):
    """Brings FOLDER to what PHONE has on DAY, its databases replaced."""
    databases = Path("WhatsApp/Databases")
    run(["rsync", "-a", "--delete", "--exclude=*.db", "--exclude=*.crypt15", f"{phone}/", f"{folder}/"], timeout=600)
    newest = folder / databases / "msgstore.db.crypt15"
    for path in sorted((phone / databases).glob("msgstore-*.db")):
        dated = folder / databases / f"{path.name}.crypt15"
        if not dated.exists() and newest.exists():
            shutil.move(newest, dated)
        elif not dated.exists():
            encrypt(path, dated, path.name)
    for path in (folder / databases).glob("msgstore-*.crypt15"):
        if not (phone / databases / path.stem).exists():
            path.unlink()
    encrypt(phone / databases / "msgstore.db", newest, day)


def encrypt(database, to, key):
    length = len(zlib.compress(database.read_bytes(), 1))
    to.write_bytes(random.Random(f"crypt15 {key}").randbytes(length))
