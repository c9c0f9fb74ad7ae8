#!/usr/bin/env python3
"""Says where the processor's time goes: shares by kind of work, and system calls.

Each row runs `mapleaf-load` twice: once under `perf record` with stacks, whose samples are
sorted into kinds by what stands in them, and once with the system's calls counted. What the
loader's own process does besides serving (its limit of bare datagrams) is left out.

Shares of a profile hold on a machine that is busy with other things; times do not, and are
not printed. Needs perf, and to be root.

Usage: tools/limits.py [ROW...]      all rows without an argument; `tools/limits.py --list`
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOAD = ROOT / "target/release/mapleaf-load"

ONE = ["--repetitions", "1"]
ROWS = {
    "throughput": ["throughput", "--batch", "64", "--seconds", "3s", *ONE],
    "fan-out-8": ["fan-out", "--subscribers", "8", "--seconds", "3s", *ONE],
    "fan-out-64": ["fan-out", "--subscribers", "64", "--seconds", "3s", *ONE],
    "latency": ["latency", "--period", "0", "--seconds", "3s", *ONE],
    "busy-poll": ["latency", "--period", "0", "--busy-poll", "--seconds", "3s", *ONE],
    "late-join-10k": ["late-join", "--repetitions", "100"],
    "late-join-1M": ["late-join", "--leaves", "1000000", "--repetitions", "3"],
    "repair": ["repair", "--rate", "100000", "--repetitions", "3"],
}

# Calls that are counted, and for how long: warm-up and measured time are four seconds.
NAMES = ["sendmmsg", "sendmsg", "sendto", "recvmmsg", "epoll_wait", "timerfd_settime", "read", "write"]
COUNTED_S = 2

# A sample is of the first kind of which a line of its stack says so, from the innermost on.
COPY = re.compile(r"copy_(to|from)_(iter|user)|rep_movs|csum_partial_copy|clear_page|memmove|memcpy")
CALLS = [
    ("kernel: send", re.compile(r"__x64_sys_(sendmmsg|sendmsg|sendto)")),
    ("kernel: receive", re.compile(r"__x64_sys_(recvmmsg|recvmsg|recvfrom)")),
    ("kernel: wait and wake", re.compile(r"__x64_sys_(epoll_\w+|futex|timerfd_settime|read|write|sched_yield|clock_nanosleep|poll)$")),
    ("kernel: the file's memory", re.compile(r"__x64_sys_(fallocate|madvise|mmap|munmap|ftruncate|unlink\w*|openat|pread64|pwrite64|f\w*sync|msync|close)$")),
    ("kernel: begin and end of processes", re.compile(r"do_exit|__x64_sys_(exit\w*|execve|clone3?)$")),
    ("kernel: page faults", re.compile(r"asm_exc_page_fault")),
]
USER = [
    ("checksum", re.compile(r"kernel::arch::|crc32c")),
    ("store leaves", re.compile(r"tree::write::|tree::index::|tree::mapped|kernel::changed|kernel::revisions|store_record|TreeLeaves as mapleaf::sync::leaves")),
    ("lay out", re.compile(r"wire::encode|copy_wire|runtime::ring|runtime::outlet|tree::read")),
    ("decode", re.compile(r"mapleaf::wire::")),
    ("protocol", re.compile(r"mapleaf::sync::|sync::follow|sync::server")),
    ("loops, sockets", re.compile(r"mapleaf::runtime|mapleaf::net|mio::")),
    ("opening, creating", re.compile(r"mapleaf::tree")),
    ("the loader", re.compile(r"mapleaf_load|hdrhistogram")),
]


def kind_of(frames):
    kernel = [name for name, where in frames if "kernel.kallsyms" in where]
    if kernel:
        for kind, pattern in CALLS:
            if any(pattern.match(name) or pattern.search(name) for name in kernel):
                copies = kind in ("kernel: send", "kernel: receive") and COPY.search(kernel[0])
                return f"{kind}, copying" if copies else kind
        if "schedule" in " ".join(kernel):
            return "kernel: wait and wake"
        return "kernel: other"
    leaf = frames[0][0] if frames else "?"
    for kind, pattern in USER:
        if pattern.search(leaf):
            return kind
    if COPY.search(leaf):
        return "copying in the program"
    return "other"


def samples(path):
    """Command, process and stack of each sample."""
    script = ["perf", "script", "-i", path, "-F", "comm,pid,tid,ip,sym,dso"]
    with subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
        head, frames = None, []
        for line in run.stdout:
            if not line.strip():
                if head:
                    yield (*head, frames)
                head, frames = None, []
            elif head is None:
                found = re.match(r"\s*(.+?)\s+(\d+)/(\d+)", line)
                head = (found[1].strip(), found[2])
            else:
                found = re.match(r"\s*[0-9a-f]+\s+(.*) \((.*)\)$", line)
                if found:
                    frames.append((found[1], found[2]))


def profile(row, folder):
    """Shares by side and kind."""
    path = f"{folder}/{row}.data"
    record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "1999", "-g", "-o", path, "--"]
    subprocess.run([*record, LOAD, *ROWS[row]], check=True, capture_output=True)
    found = list(samples(path))
    Path(path).unlink()
    loader = {pid for comm, pid, _ in found if comm == "server"}
    sides = {"server": Counter(), "subscribers": Counter()}
    for comm, pid, frames in found:
        if comm == "server":
            sides["server"][kind_of(frames)] += 1
        elif pid not in loader and "load" in comm:
            sides["subscribers"][kind_of(frames)] += 1
    return sides


def counting(pids):
    """Counts system calls of running processes for a while."""
    events = ",".join(f"syscalls:sys_enter_{name}" for name in NAMES)
    stat = ["perf", "stat", "-x", ";", "-e", events, "-p", ",".join(pids), "sleep", str(COUNTED_S)]
    return subprocess.Popen(stat, stderr=subprocess.PIPE, text=True)


def counted(stat):
    counts = {}
    for line in stat.communicate()[1].splitlines():
        fields = line.split(";")
        if len(fields) > 2 and fields[0].strip().isdigit():
            counts[fields[2].rpartition("sys_enter_")[2]] = int(fields[0])
    return counts


def calls(row):
    """System calls of server and subscribers in the middle of a run, and values applied then."""
    load = subprocess.Popen([LOAD, *ROWS[row], "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    time.sleep(1.5)
    children = Path(f"/proc/{load.pid}/task/{load.pid}/children").read_text().split()
    stats = {"server": counting([str(load.pid)]), "subscribers": counting(children)}
    counts = {side: counted(stat) for side, stat in stats.items()}
    told = json.loads(load.communicate()[0].splitlines()[-1])
    applied = told["figures"].get("applied at each")
    per_second = applied["median"] if applied else told["options"]["rate"]
    return counts, per_second * len(children) * COUNTED_S


def show(row, folder):
    print(f"\n{row}: mapleaf-load {' '.join(ROWS[row])}")
    sides = profile(row, folder)
    total = sum(sum(counter.values()) for counter in sides.values()) or 1
    print(f"  {total} samples: server {100 * sum(sides['server'].values()) / total:.0f} %, subscribers {100 * sum(sides['subscribers'].values()) / total:.0f} %")
    for side, counter in sides.items():
        count = sum(counter.values()) or 1
        parts = [f"{kind} {100 * part / count:.0f}" for kind, part in counter.most_common() if part / count >= 0.01]
        print(f"  {side}, %: {'; '.join(parts)}")
    if "--seconds" not in ROWS[row]:
        return
    counts, values = calls(row)
    for side, counter in counts.items():
        parts = [f"{name} {count / values * 1e6:,.0f}" for name, count in counter.items() if count]
        print(f"  {side}, calls per million values applied: {'; '.join(parts)}")


def main():
    rows = sys.argv[1:]
    if rows == ["--list"]:
        print("\n".join(ROWS))
        return
    with tempfile.TemporaryDirectory() as folder:
        for row in rows or ROWS:
            show(row, folder)


main()
