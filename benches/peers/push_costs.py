#!/usr/bin/env python3
"""What pushing costs: the bridge's memory and processor time beside a bridge that does not push, bytes on the wire, and what a
VictoriaMetrics of Debian 13 takes to receive the samples of many bridges.

    .ci/install-peers                    # once
    cargo build --profile dist
    benches/peers/push_costs.py

Three bridges read a quiet feed of ten skills from the real server: one that does not push, and two that push each 5 s to a
receiver that counts bytes, all series and the five families. Then the receiver is away until the backlog fills two requests, the
bridges are killed and started again, and it gets the backlog. The fleet is made here: each instance sends what such a bridge does, a
series of samples for each request.
"""

import argparse
import http.client
import http.server
import json
import pathlib
import re
import struct
import subprocess
import tempfile
import threading
import time

from support import BRIDGE, PEERS, REPOSITORY, Bridge, VictoriaMetrics, cpu_millis, free_port, resident_mib, wait_for

INTERVAL = 5
SAMPLES_OF_A_REQUEST = 10_000


class Sink(http.server.ThreadingHTTPServer):
    """Accepts everything, or answers 503 while it is away, and counts bytes of bodies, by path."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Received)
        self.is_away, self.bodies = False, {"/all": [], "/five": []}
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Received(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.server.is_away:
            self.server.bodies[self.path].append(len(body))
        self.send_response(503 if self.server.is_away else 204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def bridge_costs(program, folder, seconds):
    python, peer = PEERS / "session-buddy/venv/bin/python", REPOSITORY / "tests/programs/peer.py"
    database, sink = folder / "skills.db", Sink()
    skills = [{"skill_name": f"skill-{i:02}", "completed": True, "duration_seconds": 1.5, "times": 3} for i in range(10)]
    subprocess.run([python, peer, "store", database, json.dumps({"invocations": skills})], check=True)
    server = subprocess.Popen(
        [python, peer, "serve", "--interval", "1", "--port", "0", "--database", database], stdout=subprocess.PIPE, text=True
    )
    feed = next(f"--feed.url=ws://127.0.0.1:{line.split()[1]}" for line in server.stdout if line.startswith("ready "))

    def pushing(series):
        url = f"--push.url=http://127.0.0.1:{sink.server_port}/{series}"
        return Bridge(program, folder / series, feed, url, f"--push.interval={INTERVAL}s", f"--push.series={series}")

    quiet, every, five = Bridge(program, folder / "quiet", feed), pushing("all"), pushing("five")
    bridges = [quiet, every, five]
    for bridge in bridges:
        bridge.start()
    # Each is scraped as often, which has a part of the memory and of the time.
    wait_for(lambda: min([bridge.metric("session_buddy_bridge_push_up") for bridge in bridges][1:]) == 1)
    online(sink, bridges, seconds)
    backlog(sink, {"/all": every, "/five": five})
    for bridge in bridges:
        bridge.kill()
    server.kill()
    server.wait()


def online(sink, bridges, seconds):
    quiet, every, five = bridges
    sent = lambda: [bridge.metric("session_buddy_bridge_push_samples_total") for bridge in bridges]
    cpu = lambda: [cpu_millis(bridge.process.pid) for bridge in bridges]
    samples = sent()
    for bodies in sink.bodies.values():
        bodies.clear()
    time.sleep(INTERVAL)
    before, begun = cpu(), len(sink.bodies["/all"])
    time.sleep(seconds)
    spent, ticks = [now - then for now, then in zip(cpu(), before)], len(sink.bodies["/all"]) - begun
    resident = [resident_mib(bridge.process.pid) for bridge in bridges]
    samples = [now - then for now, then in zip(sent(), samples)]
    before = cpu()[1]
    for _ in range(50):
        every.scrape()
    scrape = (cpu()[1] - before) / 50
    for bridge, spent_by, resident_of, count, bodies in zip(
        bridges[1:], spent[1:], resident[1:], samples[1:], sink.bodies.values()
    ):
        tick, series = (spent_by - spent[0]) / ticks, count / len(bodies)
        print(
            f"{bridge.folder.name}: {ticks} ticks of {series:.0f} series: {tick:.2f} ms of processor time a tick, {tick / scrape:.2f} of "
            f"a scrape of {scrape:.2f} ms; {resident_of - resident[0]:+.2f} MiB resident beside {resident[0]:.2f} without push; "
            f"{sum(bodies) / len(bodies):.0f} bytes a tick, {sum(bodies) / count:.2f} a sample"
        )


def backlog(sink, bridges):
    """Bytes of the queue and of the requests of a backlog of two full requests."""
    every = bridges["/all"]
    series = len(re.findall(r"^\w+", every.scrape(), re.M))
    wanted = 2 * (SAMPLES_OF_A_REQUEST // series)
    sink.is_away = True
    wait_for(lambda: every.metric("session_buddy_bridge_push_queue_ticks") >= wanted, seconds=60 + 2 * wanted * INTERVAL)
    for path, bridge in bridges.items():
        ticks, queued = (bridge.metric(f"session_buddy_bridge_push_queue_{what}") for what in ("ticks", "bytes"))
        bridge.kill()
        sink.bodies[path].clear()
        sink.is_away = False
        bridge.start()
        wait_for(lambda: bridge.metric("session_buddy_bridge_push_up") and not bridge.metric("session_buddy_bridge_push_queue_ticks"))
        # The first is empty.
        sizes, count = sink.bodies[path][1:], bridge.metric("session_buddy_bridge_push_samples_total")
        sink.is_away = True
        print(
            f"{bridge.folder.name}: backlog of {ticks:.0f} ticks, {queued / ticks:.0f} bytes each in the queue: {count:.0f} samples in "
            f"{len(sizes)} requests of {sizes} bytes, {sum(sizes) / count:.2f} bytes a sample"
        )


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
    receiver = VictoriaMetrics(folder / "fleet", port)
    connection = http.client.HTTPConnection("127.0.0.1", port)
    start = int(time.time() * 1000) - rounds * 60_000
    headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}
    costs = []
    for round in range(rounds):
        bodies = [write_request(f"laptop-{i}", series, start + round * 60_000) for i in range(instances)]
        began, cpu = time.monotonic(), cpu_millis(receiver.process.pid)
        for body in bodies:
            connection.request("POST", "/api/v1/write", body, headers)
            response = connection.getresponse()
            response.read()
            assert response.status == 204, response.status
        costs.append((time.monotonic() - began, cpu_millis(receiver.process.pid) - cpu))
    samples = instances * series
    first, later = costs[0], [sum(column) / (rounds - 1) for column in zip(*costs[1:])]
    print(f"fleet of {instances} instances with {series} series, one connection: new series {samples / first[0]:.0f} samples/s and "
          f"{first[1] * 1000 / samples:.2f} µs of processor time each; known series {samples / later[0]:.0f} samples/s, "
          f"{later[1] * 1000 / samples:.2f} µs each; {resident_mib(receiver.process.pid):.0f} MiB resident")
    receiver.kill()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--bridge", type=pathlib.Path, default=BRIDGE)
    arguments.add_argument("--seconds", type=int, default=120)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bridge_costs(options.bridge, pathlib.Path(folder), options.seconds)
        fleet(pathlib.Path(folder), instances=500, series=200, rounds=6)


if __name__ == "__main__":
    main()
