"""What the scripts of this folder share: where the peers are, processes that are measured, and a VictoriaMetrics of Debian 13."""

import os
import pathlib
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PEERS = pathlib.Path(os.environ.get("SESSION_BUDDY_BRIDGE_PEERS_DIR", REPOSITORY / "target" / "peers"))
BRIDGE = REPOSITORY / "target/dist/session-buddy-bridge"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(url):
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.1)


def cpu_millis(process):
    """The processor time of the threads that live, in milliseconds to the microsecond."""
    threads = pathlib.Path(f"/proc/{process}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e6


def resident_mib(process):
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


class Bridge:
    """A bridge with a state file in a folder of its own. It can be killed, and started again with the same file."""

    def __init__(self, program, folder, *arguments):
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.arguments = [program, f"--state.path={folder / 'state.db'}", *arguments]

    def start(self):
        self.port = free_port()
        with open(self.folder / "log", "a") as log:
            listen = f"--web.listen-address=127.0.0.1:{self.port}"
            self.process = subprocess.Popen([*self.arguments, listen], stdout=log, stderr=log)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def scrape(self):
        return get(f"http://127.0.0.1:{self.port}/metrics")

    def metric(self, name):
        """The sum of a metric's series; 0 while the bridge does not listen, or has none."""
        try:
            values = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", self.scrape(), re.M)
        except urllib.error.URLError:
            values = []
        return sum(map(float, values))


class VictoriaMetrics:
    """Runs, and answers, once it is created."""

    def __init__(self, folder, port, *arguments):
        self.root = f"http://127.0.0.1:{port}"
        program = PEERS / "receivers/trixie/usr/bin/victoria-metrics"
        own = [f"-storageDataPath={folder}", f"-httpListenAddr=127.0.0.1:{port}", "-retentionPeriod=90d"]
        self.process = subprocess.Popen([program, *own, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self.is_up)

    def is_up(self):
        try:
            return bool(get(f"{self.root}/health"))
        except urllib.error.URLError:
            return False

    def kill(self):
        self.process.kill()
        self.process.wait()
