#!/usr/bin/env python3
"""Says where the processor's time goes: shares by kind of work, and system calls.

Each row runs `mapleaf-load` twice: once under `perf record` with stacks, whose samples are
sorted into kinds by what stands in them, and once with the system's calls counted. What the
loader's own process does besides serving (its limit of bare datagrams) is left out.

Shares of a profile hold on a machine that is busy with other things; times do not, and are
not printed. Needs perf, and to be root.

`repair-alone` is a time line and no profile, because a repair is a few milliseconds of seconds: it
hears the REQUESTs and RESPONSEs that pass the loopback device, and prints for each repair what
stood between the subscriber's wake-up and the moment when it was equal. Its times are those of
this machine at this moment.

Usage: tools/limits.py [ROW...]      all rows without an argument; `tools/limits.py --list`
"""

import ctypes
import json
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
LOAD = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/mapleaf-load"

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
    "repair-alone": ["repair", "--rate", "100000", "--repetitions", "9"],
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
    told = figures(load.communicate()[0])
    applied = told.get("applied at each")
    per_second = applied["median"] if applied else next(iter(told.values()))["settings"]["rate"]
    return counts, per_second * len(children) * COUNTED_S


def show(row, folder):
    print(f"\n{row}: mapleaf-load {' '.join(ROWS[row])}")
    if row == "repair-alone":
        repair_alone(row)
        return
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


# Of headers (docs/PROTOCOL.md, 3.2 and 6.2): where what is read of them stands.
REQUEST, RESPONSE = 10, 11
FLAG_LAST = 8
# A frame of the loopback device: Ethernet, IPv4 without options, UDP.
IP, UDP, PAYLOAD = 14, 34, 42


class Ear:
    """Hears REQUESTs and RESPONSEs on the loopback device, with the time at which they were sent."""

    def __init__(self):
        self.heard, self.is_open = [], True
        ear = self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
        # Kept by the kernel are UDP datagrams over IPv4 whose byte of the type is one of the two.
        steps = [
            (0x30, 0, 0, IP + 9), (0x15, 0, 4, socket.IPPROTO_UDP),
            (0x30, 0, 0, PAYLOAD + 2), (0x15, 1, 0, REQUEST), (0x15, 0, 1, RESPONSE),
            (0x06, 0, 0, 0x40000), (0x06, 0, 0, 0),
        ]
        code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
        program = struct.pack("HL", len(steps), ctypes.addressof(code))
        ear.setsockopt(socket.SOL_SOCKET, 26, program)  # SO_ATTACH_FILTER
        ear.setsockopt(263, 15, 1)  # SOL_PACKET, PACKET_VNET_HDR: says how segments are cut
        ear.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        ear.setsockopt(socket.SOL_SOCKET, 35, 1)  # SO_TIMESTAMPNS
        ear.bind(("lo", 0x0003))
        ear.settimeout(0.1)
        self.thread = threading.Thread(target=self.listen)
        self.thread.start()

    def listen(self):
        while self.is_open:
            try:
                frame, extra, _, address = self.socket.recvmsg(1 << 17, 64)
            except TimeoutError:
                continue
            # Each passes twice, and is heard as it leaves.
            if address[2] == socket.PACKET_OUTGOING:
                seconds, ns = struct.unpack("qq", extra[0][2][:16])
                self.heard.append((seconds * 10**9 + ns, frame))

    def close(self):
        self.is_open = False
        self.thread.join()
        dropped = struct.unpack("II", self.socket.getsockopt(263, 6, 8))[1]  # PACKET_STATISTICS
        self.socket.close()
        if dropped:
            print(f"  the ear missed {dropped} frames: what follows is not whole")

    def datagrams(self):
        """Time, ports of sender and receiver, and bytes of each datagram."""
        for at, frame in self.heard:
            segment = struct.unpack_from("<H", frame, 4)[0]
            frame = frame[10:]
            source, target, size = struct.unpack_from(">HHH", frame, UDP)
            payload = frame[PAYLOAD:]
            for start in range(0, len(payload), segment or len(payload)):
                yield at, source, target, payload[start:start + (segment or len(payload))]


def stops(pids, until):
    """When each of these processes went on after it was stopped, by a look every 50 us."""
    found, stopped = [], set()
    files = {pid: open(f"/proc/{pid}/stat", "rb") for pid in pids}
    while not until.is_set():
        for pid, file in files.items():
            file.seek(0)
            try:
                is_stopped = file.read().rpartition(b") ")[2][:1] == b"T"
            except ProcessLookupError:
                continue
            if is_stopped:
                stopped.add(pid)
            elif pid in stopped:
                stopped.discard(pid)
                found.append(time.time_ns())
        time.sleep(50e-6 if stopped else 5e-3)
    return found


def repair_alone(row):
    """What stands between wake-up and equality, repair by repair."""
    ear = Ear()
    load = subprocess.Popen([LOAD, *ROWS[row], "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    children = []
    while len(children) < 2 and load.poll() is None:
        time.sleep(0.05)
        children = Path(f"/proc/{load.pid}/task/{load.pid}/children").read_text().split()
    ended, resumed = threading.Event(), []
    watch = threading.Thread(target=lambda: resumed.extend(stops(children, ended)))
    watch.start()
    told = figures(load.communicate()[0])
    ended.set()
    watch.join()
    ear.close()
    until_equal = told["until equal again"]["values"]
    lines = [line_of(list(ear.datagrams()), at, took) for at, took in zip(resumed, until_equal)]
    names = list(lines[0])
    print(f"  {'':38} {'median':>9}  least to most of {len(lines)}")
    for name in names:
        values = [line[name] for line in lines]
        print(f"  {name:38} {median(values):9.2f}  {min(values):.2f} to {max(values):.2f}")


def figures(lines):
    """What the loader prints by --json: a line for each figure."""
    return {figure["measure"]: figure for figure in map(json.loads, lines.splitlines())}


def line_of(datagrams, resumed, took_ms):
    """One repair: from when the process went on until it was equal."""
    equal = resumed + took_ms * 1e6
    window = [each for each in datagrams if resumed <= each[0] <= equal]
    asked, answers = {}, []
    for at, source, target, data in window:
        if data[2] == REQUEST:
            first, count, number, credit = struct.unpack_from("<IIIH", data, 64)
            if number:
                asked[(source, number)] = (at, first + count, credit)
        else:
            number, _, following, _ = struct.unpack_from("<IIIH", data, 64)
            is_last = bool(struct.unpack_from("<H", data, 58)[0] & FLAG_LAST)
            answers.append((at, (target, number), following, is_last, data))
    # Each REQUEST is open from when it goes until its last RESPONSE goes.
    spans, until_first, cut = [], [], 0
    for key, (at, end, _) in asked.items():
        own = [answer for answer in answers if answer[1] == key]
        if own:
            spans.append((at, own[-1][0]))
            until_first.append(own[0][0] - at)
            cut += sum(is_last and following < end for _, _, following, is_last, _ in own)
    opened, edge = 0, 0
    for start, end in sorted(spans):
        opened += max(0, end - max(start, edge))
        edge = max(edge, end)
    begin = min((at for at, _, _ in asked.values()), default=equal)
    last = max((end for _, end in spans), default=begin)
    return {
        "until equal, ms": took_ms,
        "wake-up to first REQUEST, ms": (begin - resumed) / 1e6,
        "first REQUEST to last RESPONSE, ms": (last - begin) / 1e6,
        "  a REQUEST open in it, ms": opened / 1e6,
        "  none open, ms": (last - begin - opened) / 1e6,
        "  none open, %": 100 * (last - begin - opened) / max(1, last - begin),
        "last RESPONSE to equal, ms": (equal - last) / 1e6,
        "REQUEST to its first RESPONSE, ms": median(until_first) / 1e6 if until_first else 0,
        "REQUESTs": len(asked),
        "  not answered": len(asked) - len(spans),
        "  cut by credit": cut,
        "credit asked for, datagrams": median(credit for _, _, credit in asked.values()) if asked else 0,
        "RESPONSE datagrams": len(answers),
        "RESPONSE bytes, kB": sum(len(answer[4]) for answer in answers) / 1e3,
    }


def main():
    rows = sys.argv[1:]
    if rows == ["--list"]:
        print("\n".join(ROWS))
        return
    with tempfile.TemporaryDirectory() as folder:
        for row in rows or ROWS:
            show(row, folder)


main()
