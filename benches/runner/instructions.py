"""`make bench-instructions`: instructions that the parts take, by valgrind's callgrind.

The same on a busy machine as on an idle one, unlike times. Each part runs under callgrind twice,
with different numbers of iterations: the difference is theirs alone. `benches/instructions.json` has
what was counted before (of one compiler, on x86-64); more than a tenth above it ends with an error.
WRITE=1 replaces the file.
"""

import json
import os
import re
from pathlib import Path

from bench import OUT
from shell import Failed, run

ROOT = Path(__file__).resolve().parents[2]
BEFORE = ROOT / "benches" / "instructions.json"
WORSE = 1.1
# Filters of `benches/micro.rs`, and how many iterations more the second run makes.
PARTS = {
    "seal::4096$": 20,
    "open::4096$": 20,
    "chunk_id::4096$": 20,
    "chunking::media": 8,
    "chunking::text": 2,
    "chunking::pages": 2,
    "journal_append::4096$": 200,
    "index_lookup::100000$": 200,
    "tree_get::10000$": 200,
    "tree_edit::10000$": 4,
    "tree_range::10000$": 10,
}


def program():
    out = run(
        ["cargo", "bench", "--bench", "micro", "--no-run", "--message-format", "json"], timeout=1800, cwd=ROOT
    )
    for line in out.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "micro":
            return message["executable"]
    raise Failed("cargo bench names no program")


def counted(micro, part, iterations):
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--log-fd=1"]
    command += [micro, "--bench", part, "--sample-count", "1", "--sample-size", str(iterations)]
    out = run(command, timeout=600)
    if not re.search(rf"│ 1 +│ {iterations}\b", out):
        raise Failed(f"{part} names no bench")
    return int(re.search(r"Collected : (\d+)", out)[1])


def main():
    micro = program()
    before = json.loads(BEFORE.read_text(encoding="utf-8")) if BEFORE.exists() else {}
    now, worse = {}, []
    lines = ["| part | instructions | before | ratio |", "|---|---|---|---|"]
    for part, more in PARTS.items():
        name = part.rstrip("$").replace("::", " ")
        # The first iterations touch everything for the first time.
        now[name] = (counted(micro, part, 3 + more) - counted(micro, part, 3)) // more
        ratio = now[name] / before[name] if name in before else 1
        was = f"{before[name]:,}" if name in before else "-"
        lines.append(f"| {name} | {now[name]:,} | {was} | {ratio:.2f} |")
        if ratio > WORSE:
            worse.append(f"{name} takes {ratio:.2f} times as many")
    print("\n".join(lines))
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "instructions.json").write_text(json.dumps(now, indent=1), encoding="utf-8")
    if os.environ.get("WRITE"):
        BEFORE.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
    elif worse:
        raise Failed("; ".join(worse))
