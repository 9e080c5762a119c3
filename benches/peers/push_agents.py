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
import pathlib
import subprocess
import tempfile
import threading
import time
import urllib.parse

from support import BRIDGE, PEERS, Bridge, VictoriaMetrics, free_port, get


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


class Agent:
    """An agent under test: how it is started, which of its series is counted, and how many samples it has taken."""

    counted = "scrapes_total"

    def __init__(self, name, folder, target, interval, port):
        self.name, self.folder, self.target = name, folder, target
        self.url = f"http://127.0.0.1:{port}/api/v1/write"
        folder.mkdir()
        self.scrape_config = (
            f"scrape_configs:\n- job_name: target\n  metrics_path: /{name}\n  scrape_interval: {interval}s\n"
            f"  scrape_timeout: {interval}s\n  static_configs:\n  - targets: ['127.0.0.1:{target.port}']\n"
        )

    def start(self):
        with open(self.folder / "log", "a") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log)

    def kill(self):
        self.process.kill()
        self.process.wait()

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


class PushingBridge(Bridge):
    """The bridge under test, in the same words."""

    name, counted = "session-buddy-bridge", "process_threads"

    def __init__(self, folder, program, interval, port):
        push = [f"--push.url=http://127.0.0.1:{port}/api/v1/write", f"--push.interval={interval}s"]
        super().__init__(program, folder, "--feed.url=ws://127.0.0.1:1", *push)

    def taken(self):
        return int(self.metric("session_buddy_bridge_push_queue_ticks"))


def measure(sender, port, samples, interval, results):
    sender.start()
    while sender.taken() < samples:
        time.sleep(min(0.1, interval / 10))
    time.sleep(interval / 2)
    taken, killed_at = sender.taken(), time.time()
    sender.kill()
    sender.start()
    time.sleep(5)
    receiver = VictoriaMetrics(sender.folder / "received", port, "-search.latencyOffset=0s")
    # Longer than the longest delay that any of them has reached by now, and three samples more.
    time.sleep(45 + 3 * interval)
    get(f"{receiver.root}/internal/force_flush")

    def count(until):
        query = urllib.parse.urlencode({"query": f"count_over_time({sender.counted}[1h])", "time": until, "nocache": 1})
        found = json.loads(get(f"{receiver.root}/api/v1/query?{query}"))["data"]["result"]
        return int(found[0]["value"][1]) if found else 0

    results[sender.name] = (count(killed_at), taken, count(time.time()) - count(killed_at))
    sender.kill()
    receiver.kill()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--samples", type=int, default=45)
    arguments.add_argument("--interval", type=int, default=5, help="seconds between two samples")
    arguments.add_argument("--bridge", type=pathlib.Path, default=BRIDGE)
    arguments.add_argument("--without-bridge", action="store_true", help="for intervals below its shortest of 5 s")
    options = arguments.parse_args()
    target, results = Target(), {}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        agents, ports = {"prometheus-agent": PrometheusAgent, "vmagent": VmAgent}, [free_port() for _ in range(3)]
        senders = [
            kind(name, folder / name, target, options.interval, port) for (name, kind), port in zip(agents.items(), ports)
        ]
        if not options.without_bridge:
            senders.append(PushingBridge(folder / "bridge", options.bridge, options.interval, ports[2]))
        threads = [
            threading.Thread(target=measure, args=(sender, port, options.samples, options.interval, results))
            for sender, port in zip(senders, ports)
        ]
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
