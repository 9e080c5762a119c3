#!/usr/bin/env python3
"""Session-Buddy's published server and storage, as a peer for tests.

    peer.py install DIR                 make DIR/venv and DIR/site from the pinned packages, once

and, run by DIR/venv/bin/python:

    peer.py serve|check|token|sample ... what deploy/session-buddy/metrics_server.py does
    peer.py drive DATABASE ...          store seeded random invocations and anomalies at a pace
    peer.py store DATABASE PLAN         store exactly what the JSON document PLAN says
    peer.py truth DATABASE              print as JSON what DATABASE holds
"""

import argparse
import hashlib
import json
import pathlib
import random
import sqlite3
import subprocess
import sys
import time
from datetime import datetime, timezone

from step_into_packages import step_into_packages

HERE = pathlib.Path(__file__).resolve().parent
DEPLOYMENT = HERE.parent.parent / "deploy" / "session-buddy"
PACKAGES = ["session-buddy", "mcp-common"]
LIBRARIES = ["websockets", "pyjwt"]


def install(directory):
    """Install the versions that the deployment pins, unless DIR holds just these already."""
    lines = (DEPLOYMENT / "requirements.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    tools = HERE / "requirements.txt"
    wanted = json.dumps([[sys.version, pinned[p]] for p in PACKAGES + LIBRARIES]) + tools.read_text()
    fingerprint = hashlib.sha256(wanted.encode()).hexdigest()
    installed = directory / "installed"
    if installed.exists() and installed.read_text() == fingerprint:
        return
    installed.unlink(missing_ok=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", directory / "venv"], check=True)
    pip = [directory / "venv" / "bin" / "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps"]
    subprocess.run([*pip, "-r", tools, *(f"{p}=={pinned[p]}" for p in LIBRARIES)], check=True)
    site = ["--upgrade", "--target", directory / "site", "--python-version", "3.14", "--only-binary=:all:"]
    # pip compares Requires-Python with the interpreter that runs it even where --python-version names another.
    subprocess.run([*pip, "--ignore-requires-python", *site, *(f"{p}=={pinned[p]}" for p in PACKAGES)], check=True)
    installed.write_text(fingerprint)


def open_storage(database):
    from metrics_server import migrate
    from session_buddy.storage.skills_storage import SkillsStorage

    migrate(database)
    return SkillsStorage(db_path=database)


def store_invocation(storage, skill_name, completed, duration_seconds=None, workflow_phase=None, error_type=None):
    storage.store_invocation(
        skill_name=skill_name,
        # As the package's own tracker writes it, in microseconds.
        invoked_at=datetime.now(timezone.utc).isoformat(),
        session_id="peer",
        completed=completed,
        duration_seconds=duration_seconds,
        workflow_phase=workflow_phase,
        error_type=error_type,
    )


def store_anomaly(storage, skill_name, anomaly_type, deviation_score):
    """The package reads this table and has no writer for it yet, so the row goes in through the storage's transaction."""
    with storage._transaction() as connection:
        connection.execute(
            "INSERT INTO skill_anomalies (skill_name, detected_at, anomaly_type, deviation_score)"
            " VALUES (?, datetime('now'), ?, ?)",
            (skill_name, anomaly_type, deviation_score),
        )


# Names, a message, and none.
ERROR_TYPES = ["timeout", None, "ValueError", "it timed out", "http.client:404"]


def drive(database, invocations, per_second, anomaly_every, skills, seed):
    """Every `anomaly_every`th invocation brings an anomaly; every completed one has a duration, the others a type of errors."""
    chance = random.Random(seed)
    names = [f"skill-{i:02}" for i in range(skills)]
    with open_storage(database) as storage:
        for i in range(1, invocations + 1):
            name = names[min(int(chance.paretovariate(0.8)) - 1, skills - 1)]
            completed = chance.random() < 0.85
            duration = round(0.001 + chance.lognormvariate(0.5, 1.6), 4) if completed else None
            error_type = None if completed else ERROR_TYPES[i % len(ERROR_TYPES)]
            store_invocation(storage, name, completed, duration, chance.choice([None, "setup", "execution"]), error_type)
            if i % anomaly_every == 0:
                kind = chance.choice(["drop", "spike", "pattern_shift"])
                store_anomaly(storage, name, kind, round(chance.uniform(2, 5), 3))
            time.sleep(chance.expovariate(per_second))


def store(database, plan):
    with open_storage(database) as storage:
        for skill in plan.get("invocations", []):
            times = skill.pop("times", 1)
            for _ in range(times):
                store_invocation(storage, **skill)
        for anomaly in plan.get("anomalies", []):
            store_anomaly(storage, **anomaly)


def truth(database):
    with sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True) as connection:
        skills = connection.execute(
            "SELECT skill_name, total_invocations, completed_invocations, total_duration_seconds FROM skill_metrics"
        ).fetchall()
        anomalies = connection.execute(
            "SELECT anomaly_type, skill_name, count(*) FROM skill_anomalies GROUP BY 1, 2"
        ).fetchall()
    return {
        "skills": [
            dict(zip(("skill_name", "total", "completed", "duration_sum_seconds"), row)) for row in skills
        ],
        "anomalies": [dict(zip(("anomaly_type", "skill_name", "count"), row)) for row in anomalies],
    }


def main():
    if sys.argv[1:2] == ["install"]:
        return install(pathlib.Path(sys.argv[2]).resolve())
    step_into_packages(pathlib.Path(sys.prefix).parent / "site", DEPLOYMENT)
    if sys.argv[1:2] and sys.argv[1] in ("serve", "check", "token", "sample"):
        import metrics_server

        return metrics_server.main()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("drive", "store", "truth"):
        commands.add_parser(name).add_argument("database", type=lambda path: pathlib.Path(path).resolve())
    driving = commands.choices["drive"]
    driving.add_argument("--invocations", type=int, required=True)
    driving.add_argument("--per-second", type=float, required=True)
    driving.add_argument("--anomaly-every", type=int, required=True, help="invocations from one anomaly to the next")
    driving.add_argument("--skills", type=int, default=8)
    driving.add_argument("--seed", type=int, default=1)
    commands.choices["store"].add_argument("plan", type=json.loads)
    args = vars(parser.parse_args())
    command = args.pop("command")
    outcome = {"drive": drive, "store": store, "truth": truth}[command](**args)
    if outcome is not None:
        print(json.dumps(outcome))


if __name__ == "__main__":
    main()
