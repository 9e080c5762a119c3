#!/usr/bin/env python3
"""What pushing costs: the bridge's memory and processor time beside a bridge that does not push, bytes on the wire, and what a
VictoriaMetrics of Debian 13 takes to receive the samples of many bridges.

    .ci/install-peers                    # once
    cargo build --profile dist
    benches/peers/push_costs.py

Two bridges read a quiet feed of ten skills from the real server, one pushes each 5 s to a receiver that counts bytes; then the
receiver is away for as long, and gets the backlog. The fleet is made here: each instance sends what such a bridge does, a series
of samples for each request.
"""

import argparse
import http.client
import http.server
import json
import os
import pathlib
import re
import socket
import struct
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PEERS = pathlib.Path(os.environ.get("SESSION_BUDDY_BRIDGE_PEERS_DIR", REPOSITORY / "target" / "peers"))
INTERVAL = 5


class Sink(http.server.ThreadingHTTPServer):
    """Accepts everything, or answers 503 while it is away, and counts bytes of bodies."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Received)
        self.is_away, self.bodies = False, []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Received(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.server.is_away:
            self.server.bodies.append(len(body))
        self.send_response(503 if self.server.is_away else 204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Bridge:
    def __init__(self, program, folder, feed, *arguments):
        folder.mkdir()
        self.port = free_port()
        common = [f"--feed.url={feed}", f"--state.path={folder / 'state.db'}", f"--web.listen-address=127.0.0.1:{self.port}"]
        with open(folder / "log", "w") as log:
            self.process = subprocess.Popen([program, *common, *arguments], stdout=log, stderr=log)

    def metric(self, name):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as response:
                values = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", response.read().decode(), re.M)
        except urllib.error.URLError:
            values = []
        return sum(map(float, values))

    def cpu_millis(self):
        return cpu_millis(self.process.pid)

    def resident_kib(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1])


def cpu_millis(process):
    threads = pathlib.Path(f"/proc/{process}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e6


def wait_for(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.1)


def bridge_costs(program, folder, seconds):
    python, peer = PEERS / "session-buddy/venv/bin/python", REPOSITORY / "tests/programs/peer.py"
    database, sink = folder / "skills.db", Sink()
    skills = [{"skill_name": f"skill-{i:02}", "completed": True, "duration_seconds": 1.5, "times": 3} for i in range(10)]
    subprocess.run([python, peer, "store", database, json.dumps({"invocations": skills})], check=True)
    server = subprocess.Popen(
        [python, peer, "serve", "--interval", "1", "--port", "0", "--database", database], stdout=subprocess.PIPE, text=True
    )
    feed = next(f"ws://127.0.0.1:{line.split()[1]}" for line in server.stdout if line.startswith("ready "))
    push = [f"--push.url=http://127.0.0.1:{sink.server_port}/api/v1/write", f"--push.interval={INTERVAL}s"]
    quiet, pushing = Bridge(program, folder / "quiet", feed), Bridge(program, folder / "pushing", feed, *push)
    bridges = [quiet, pushing]
    wait_for(lambda: pushing.metric("session_buddy_bridge_push_up"))
    sent = lambda bridge: bridge.metric("session_buddy_bridge_push_samples_total")
    time.sleep(2 * INTERVAL)
    sink.bodies.clear()
    cpu, samples = [bridge.cpu_millis() for bridge in bridges], sent(pushing)
    time.sleep(seconds)
    cpu = [bridge.cpu_millis() - before for bridge, before in zip(bridges, cpu)]
    ticks = len(sink.bodies)
    series = (sent(pushing) - samples) / ticks
    with urllib.request.urlopen(f"http://127.0.0.1:{pushing.port}/metrics", timeout=10) as response:
        samples_shown = re.findall(r"^\w+", response.read().decode(), re.M)
    five = sum(not name.startswith(("session_buddy_bridge_", "process_")) for name in samples_shown)
    print(f"{ticks} ticks of {series:.0f} series, {five} of them of the five families, in {seconds} s")
    print(f"processor time without push {cpu[0]:.1f} ms, with push {cpu[1]:.1f} ms: {(cpu[1] - cpu[0]) / ticks:.2f} ms a tick")
    resident = [bridge.resident_kib() / 1024 for bridge in bridges]
    print(f"resident without push {resident[0]:.2f} MiB, with push {resident[1]:.2f} MiB: {resident[1] - resident[0]:+.2f} MiB")
    print(f"online: {sum(sink.bodies) / ticks:.0f} bytes a tick, {sum(sink.bodies) / ticks / series:.2f} bytes a sample")
    sink.is_away = True
    wait_for(lambda: pushing.metric("session_buddy_bridge_push_up") == 0)
    time.sleep(seconds)
    sink.bodies.clear()
    sink.is_away, samples = False, sent(pushing)
    wait_for(lambda: sent(pushing) - samples > 5 * series)
    size, count = sum(sink.bodies), sent(pushing) - samples
    print(f"backlog: {count:.0f} samples in {size} bytes and {len(sink.bodies)} requests, {size / count:.2f} bytes a sample")
    for process in (quiet.process, pushing.process, server):
        process.kill()
        process.wait()


def varint(number):
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(encoded + bytes([number]))


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def write_request(instance, series, millis):
    """A WriteRequest in the block format of snappy, not compressed: literals alone."""
    body = bytearray()
    for index in range(series):
        labels = [("__name__", "skill_duration_seconds_bucket"), ("instance", instance), ("job", "session-buddy"), ("le", "1.0"),
                  ("skill_name", f"skill-{index:04}"), ("workflow_phase", "unknown")]
        encoded = b"".join(field(1, field(1, name.encode()) + field(2, value.encode())) for name, value in labels)
        sample = b"\x09" + struct.pack("<d", index + millis // 60_000 % 7) + b"\x10" + varint(millis)
        body += field(1, encoded + field(2, sample))
    chunks = (bytes(body[at : at + 65_536]) for at in range(0, len(body), 65_536))
    return varint(len(body)) + b"".join(b"\xf4" + struct.pack("<H", len(chunk) - 1) + chunk for chunk in chunks)


def fleet(folder, instances, series, rounds):
    port = free_port()
    receiver = subprocess.Popen(
        [PEERS / "receivers/trixie/usr/bin/victoria-metrics", f"-storageDataPath={folder / 'fleet'}",
         f"-httpListenAddr=127.0.0.1:{port}", "-retentionPeriod=90d"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )

    def is_up():
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10).status == 200
        except urllib.error.URLError:
            return False

    wait_for(is_up)
    connection = http.client.HTTPConnection("127.0.0.1", port)
    start = int(time.time() * 1000) - rounds * 60_000
    headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}
    costs = []
    for round in range(rounds):
        bodies = [write_request(f"laptop-{i}", series, start + round * 60_000) for i in range(instances)]
        before, began, cpu = time.monotonic(), time.monotonic(), cpu_millis(receiver.pid)
        for body in bodies:
            connection.request("POST", "/api/v1/write", body, headers)
            response = connection.getresponse()
            response.read()
            assert response.status == 204, response.status
        costs.append((time.monotonic() - began, cpu_millis(receiver.pid) - cpu))
    samples = instances * series
    first, later = costs[0], [sum(column) / (rounds - 1) for column in zip(*costs[1:])]
    rss = int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{receiver.pid}/status").read_text())[1]) / 1024
    print(f"fleet of {instances} instances with {series} series, one connection: new series {samples / first[0]:.0f} samples/s and "
          f"{first[1] * 1000 / samples:.2f} µs of processor time each; known series {samples / later[0]:.0f} samples/s, "
          f"{later[1] * 1000 / samples:.2f} µs each; {rss:.0f} MiB resident")
    receiver.kill()
    receiver.wait()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--bridge", type=pathlib.Path, default=REPOSITORY / "target/dist/session-buddy-bridge")
    arguments.add_argument("--seconds", type=int, default=120)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bridge_costs(options.bridge, pathlib.Path(folder), options.seconds)
        fleet(pathlib.Path(folder), instances=500, series=200, rounds=6)


if __name__ == "__main__":
    main()
