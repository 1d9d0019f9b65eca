"""The table as a picture: one row a job, one dot a file system, against the file system in memory."""

import math
from html import escape

import jobs
import report
import targets

COLOURS = {
    "plain": "#9a9a9a", "memfs": "#444444", "bindfs": "#b8a37a", "amberfs": "#d97706", "gocryptfs": "#2563eb",
    "securefs": "#059669", "cryfs": "#db2777", "encfs": "#7c3aed", "rclone": "#0891b2",
}
LEFT, RIGHT, ROW, TOP = 230, 30, 24, 74
WIDTH = 900
LOW, HIGH = 1 / 32, 16


def x_of(value):
    share = math.log(min(max(value, LOW), HIGH) / LOW) / math.log(HIGH / LOW)
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def text(x, y, words, size=13, anchor="start", weight="normal", fill="#222"):
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
        f'font-weight="{weight}" fill="{fill}">{escape(words)}</text>'
    )


def legend(names, y):
    parts, x = [], LEFT
    for name in names:
        parts.append(f'<circle cx="{x}" cy="{y - 4}" r="5" fill="{COLOURS[name]}"/>')
        parts.append(text(x + 9, y, name, 12))
        x += 26 + 7 * len(name)
    return parts


def panel(place, top):
    """One place; returns its parts and where the next one begins."""
    values = {job: row for job, row in report.medians(place).items() if row.get("memfs")}
    rows = [job for job in jobs.JOBS if job.name in values]
    bottom = top + TOP + ROW * len(rows)
    names = [name for name in COLOURS if any(name in row for row in values.values())]
    parts = [text(20, top + 24, f"On {place['kind']}", 16, weight="bold")]
    parts += [text(LEFT, top + 24, "times our file system in memory (memfs); further right is faster", 12, fill="#555")]
    parts += legend(names, top + 46)
    tick = LOW
    while tick <= HIGH:
        x, label = x_of(tick), f"1/{round(1 / tick)}" if tick < 1 else f"{tick:g}"
        colour = "#888" if tick == 1 else "#e2e2e2"
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top + TOP - 12}" y2="{bottom}" stroke="{colour}"/>')
        parts.append(text(x, bottom + 16, label, 11, "middle", fill="#555"))
        tick *= 2
    for number, job in enumerate(rows):
        y = top + TOP + ROW * number
        row = values[job.name]
        parts.append(text(LEFT - 12, y + 4, job.title, 12, "end"))
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="#f0f0f0"/>')
        for name in sorted(row, key=lambda name: targets.BY_NAME[name].kind == "ours"):
            radius, edge = (7, "#222") if name == "amberfs" else (5, "#fff")
            place_x = x_of(row[name] / row["memfs"])
            parts.append(
                f'<circle cx="{place_x:.1f}" cy="{y}" r="{radius}" fill="{COLOURS[name]}" stroke="{edge}">'
                f"<title>{escape(name)}: {escape(report.figure(row[name]))} {escape(job.unit)}</title></circle>"
            )
    return parts, bottom + 40


def svg(result):
    """The whole picture; places without memfs have no panel."""
    parts, y = [], 0
    for place in result["places"]:
        if any(sample["target"] == "memfs" for sample in place["samples"]):
            more, y = panel(place, y)
            parts += more
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" '
        'font-family="system-ui, sans-serif">'
    )
    return "\n".join([head, f'<rect width="{WIDTH}" height="{y}" fill="#fff"/>', *parts, "</svg>", ""])
