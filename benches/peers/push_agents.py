#!/usr/bin/env python3
"""What arrives of the samples that a sender took while its receiver was down, if it is killed before the receiver is up.

    .ci/install-peers sid                # once: unpacks Prometheus and vmagent of Debian unstable, which move
    cargo build --profile dist
    benches/peers/push_agents.py         # 45 samples, one each 5 s, the bridge's shortest interval
    benches/peers/push_agents.py --interval 1 --without-bridge

Each sender has a receiver of its own, a VictoriaMetrics of Debian 13, which takes samples of any age. The agents scrape a target
of one counter that serves this script, and each of them is killed with SIGKILL half an interval after its last sample; the bridge takes
as many ticks of its own metrics. The sender is started again at once, and the receiver 5 s later.
"""

import argparse
import http.server
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PEERS = pathlib.Path(os.environ.get("SESSION_BUDDY_BRIDGE_PEERS_DIR", REPOSITORY / "target" / "peers"))


class Target(http.server.ThreadingHTTPServer):
    """Serves a counter to each agent at a path of its own, and counts the scrapes."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Scrape)
        self.scrapes = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self):
        return self.server_address[1]


class Scrape(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        scrapes = self.server.scrapes
        scrapes[self.path] = scrapes.get(self.path, 0) + 1
        body = f"# TYPE scrapes_total counter\nscrapes_total {scrapes[self.path]}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(url):
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


class Sender:
    """A sender under test: how it is started, which of its series is counted, and how many samples it has taken."""

    def __init__(self, name, folder, metric):
        self.name, self.folder, self.metric = name, folder, metric
        self.receiver_port = free_port()
        self.url = f"http://127.0.0.1:{self.receiver_port}/api/v1/write"
        folder.mkdir()

    def start(self):
        with open(self.folder / "log", "a") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Agent(Sender):
    def __init__(self, name, folder, target, interval):
        super().__init__(name, folder, "scrapes_total")
        self.target = target
        self.scrape_config = (
            f"scrape_configs:\n- job_name: target\n  metrics_path: /{name}\n  scrape_interval: {interval}s\n"
            f"  scrape_timeout: {interval}s\n  static_configs:\n  - targets: ['127.0.0.1:{target.port}']\n"
        )

    def taken(self):
        return self.target.scrapes.get(f"/{self.name}", 0)


class PrometheusAgent(Agent):
    def command(self):
        config = self.folder / "prometheus.yml"
        config.write_text(f"{self.scrape_config}remote_write:\n- url: {self.url}\n")
        return [
            PEERS / "receivers/sid/usr/bin/prometheus",
            "--agent",
            f"--config.file={config}",
            f"--storage.agent.path={self.folder / 'data'}",
            "--web.listen-address=127.0.0.1:0",
        ]


class VmAgent(Agent):
    def command(self):
        config = self.folder / "scrape.yml"
        config.write_text(self.scrape_config)
        return [
            PEERS / "receivers/sid/usr/bin/vmagent",
            f"-promscrape.config={config}",
            f"-remoteWrite.url={self.url}",
            f"-remoteWrite.tmpDataPath={self.folder / 'data'}",
            f"-httpListenAddr=127.0.0.1:{free_port()}",
        ]


class Bridge(Sender):
    def __init__(self, name, folder, program, interval):
        super().__init__(name, folder, "process_threads")
        self.program, self.interval = program, interval

    def command(self):
        self.port = free_port()
        return [
            self.program,
            "--feed.url=ws://127.0.0.1:1",
            f"--state.path={self.folder / 'state.db'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            f"--push.url={self.url}",
            f"--push.interval={self.interval}s",
        ]

    def taken(self):
        try:
            shown = re.search(r"^session_buddy_bridge_push_queue_ticks\{.*\} (\d+)$", get(f"http://127.0.0.1:{self.port}/metrics"), re.M)
        except urllib.error.URLError:
            return 0
        return int(shown[1]) if shown else 0


def measure(sender, samples, interval, results):
    sender.start()
    while sender.taken() < samples:
        time.sleep(min(0.1, interval / 10))
    time.sleep(interval / 2)
    taken, killed_at = sender.taken(), time.time()
    sender.kill()
    sender.start()
    time.sleep(5)
    receiver = subprocess.Popen(
        [
            PEERS / "receivers/trixie/usr/bin/victoria-metrics",
            f"-storageDataPath={sender.folder / 'received'}",
            f"-httpListenAddr=127.0.0.1:{sender.receiver_port}",
            "-search.latencyOffset=0s",
            "-retentionPeriod=90d",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # Longer than the longest delay that any of them has reached by now, and three samples more.
    time.sleep(45 + 3 * interval)
    root = f"http://127.0.0.1:{sender.receiver_port}"
    get(f"{root}/internal/force_flush")

    def count(until):
        query = urllib.parse.urlencode({"query": f"count_over_time({sender.metric}[1h])", "time": until, "nocache": 1})
        found = json.loads(get(f"{root}/api/v1/query?{query}"))["data"]["result"]
        return int(found[0]["value"][1]) if found else 0

    results[sender.name] = (count(killed_at), taken, count(time.time()) - count(killed_at))
    sender.kill()
    receiver.kill()
    receiver.wait()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--samples", type=int, default=45)
    arguments.add_argument("--interval", type=int, default=5, help="seconds between two samples")
    arguments.add_argument("--bridge", type=pathlib.Path, default=REPOSITORY / "target/dist/session-buddy-bridge")
    arguments.add_argument("--without-bridge", action="store_true", help="for intervals below its shortest of 5 s")
    options = arguments.parse_args()
    target, results = Target(), {}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        senders = [
            PrometheusAgent("prometheus-agent", folder / "agent", target, options.interval),
            VmAgent("vmagent", folder / "vmagent", target, options.interval),
        ]
        if not options.without_bridge:
            senders.append(Bridge("session-buddy-bridge", folder / "bridge", options.bridge, options.interval))
        threads = [threading.Thread(target=measure, args=(s, options.samples, options.interval, results)) for s in senders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(f"{options.samples} samples, one each {options.interval} s:")
    for sender in senders:
        delivered, taken, after = results[sender.name]
        print(f"  {sender.name}: {delivered} of {taken} delivered; {after} that were taken after the kill")


if __name__ == "__main__":
    main()
