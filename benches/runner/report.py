"""Medians and ratios as a Markdown table."""

from statistics import median

import jobs
import targets


def medians(place, key="value"):
    """By job and target."""
    found = {}
    for sample in place["samples"]:
        if sample[key] is not None:
            found.setdefault(sample["job"], {}).setdefault(sample["target"], []).append(sample[key])
    return {job: {name: median(values) for name, values in row.items()} for job, row in found.items()}


def peaks(place):
    """The highest resident set by job and target, in MiB."""
    found = {}
    for sample in place["samples"]:
        if sample["peak_kib"] is not None:
            row = found.setdefault(sample["job"], {})
            row[sample["target"]] = max(row.get(sample["target"], 0), sample["peak_kib"] / 1024)
    return found


def best_peer(job, row, flushes):
    """The encrypted file system with the highest figure. Where fsync counts, only among those whose fsync is real."""
    peers = {
        name: value
        for name, value in row.items()
        if targets.BY_NAME[name].kind == "peer" and not (job.synced and flushes.get(name, 1) < 0.9)
    }
    return max(peers, key=peers.get) if peers else None


def ratio(row, name):
    ours = row.get("amberfs")
    return f"{ours / row[name]:.2f}" if ours and row.get(name) else "-"


def figure(value):
    if value is None:
        return "-"
    if value >= 10_000:
        return f"{value / 1000:.1f} k"
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def table(place, flushes):
    names = [name for name in targets.BY_NAME if any(s["target"] == name for s in place["samples"])]
    values, memory = medians(place), peaks(place)
    head = ["job", "unit", *names, "to best peer", "to memfs", "to plain"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for job in jobs.JOBS:
        row = values.get(job.name)
        if not row:
            continue
        cells = [job.title, job.unit]
        for name in names:
            peak = memory.get(job.name, {}).get(name)
            mark = "\\*" if job.synced and flushes.get(name, 1) < 0.9 else ""
            cells.append(figure(row.get(name)) + mark + (f" ({peak:.0f})" if peak else ""))
        peer = best_peer(job, row, flushes)
        cells.append(f"{ratio(row, peer)} ({peer})" if peer else "-")
        cells += [ratio(row, "memfs"), ratio(row, "plain")]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def settled(place):
    """How long after the job amberfs had all of it in REPO."""
    values = medians(place, "settle_s")
    parts = [
        f"{job.title} {values[job.name]['amberfs']:.2f} s"
        for job in jobs.JOBS
        if job.writes and "amberfs" in values.get(job.name, {})
    ]
    return "; ".join(parts)


def markdown(result):
    versions = ", ".join(text for text in result["versions"].values() if text)
    lines = [f"{result['cores']} cores, Linux {result['kernel']}. {versions}.", ""]
    for place in result["places"]:
        lines += [
            f"On {place['kind']}: medians of {place['rounds']} rounds, file of {place['size_mib']} MiB, "
            f"slices of {place['slice_s']:g} s, {place['files']} small files. In brackets the highest memory "
            "of the daemon during the job (VmHWM), in MiB. Load average as the rounds began: "
            f"{', '.join(f'{load:.1f}' for load in place['loads'])}. plain: the place itself; memfs: our file system in memory.",
            "",
            *table(place, result["flushes"]),
            "",
        ]
        if settled(place):
            lines += [f"After the job, until amberfs had it all in REPO and was idle: {settled(place)}.", ""]
        lines += [f"- {text}" for text in place["failures"]] + [""] * bool(place["failures"])
    if result["flushes"]:
        each = ", ".join(f"{name} {count:.2f}" for name, count in result["flushes"].items())
        lines += [f"Disk flushes per fsync: {each}. \\*: its fsync does not reach the disk.", ""]
    return "\n".join(lines)
