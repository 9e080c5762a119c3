"""A client of the feed as one would write it with websockets, json and prometheus_client."""

import asyncio
import json
import sys

import websockets
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

registry = CollectorRegistry()
invocations = Counter(
    "skill_invocations_total",
    "Total number of skill invocations",
    ["skill_name", "workflow_phase", "completed"],
    registry=registry,
)
durations = Histogram(
    "skill_duration_seconds",
    "Skill execution duration in seconds",
    ["skill_name", "workflow_phase"],
    buckets=[0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0],
    registry=registry,
)
rates = Gauge("skill_completion_rate", "Current skill completion rate", ["skill_name"], registry=registry)
anomalies = Counter(
    "anomalies_detected_total", "Total number of anomalies detected", ["anomaly_type", "skill_name"], registry=registry
)


def apply(message):
    kind, data = message["type"], message.get("data")
    if kind == "skill_invocation":
        name, phase = data["skill_name"], data.get("workflow_phase") or "unknown"
        completed = "true" if data["completed"] else "false"
        invocations.labels(skill_name=name, workflow_phase=phase, completed=completed).inc()
        if data.get("duration_seconds") is not None:
            durations.labels(skill_name=name, workflow_phase=phase).observe(data["duration_seconds"])
    elif kind == "metrics_update":
        for skill in data["top_skills"]:
            name = skill["skill_name"]
            invocations.labels(skill_name=name, workflow_phase="unknown", completed="true").inc()
            rates.labels(skill_name=name).set(skill["completion_rate"] / 100)
            if skill["avg_duration_seconds"] is not None:
                durations.labels(skill_name=name, workflow_phase="unknown").observe(skill["avg_duration_seconds"])
        for anomaly in data["anomalies"]:
            anomalies.labels(anomaly_type=anomaly["anomaly_type"], skill_name=anomaly["skill_name"]).inc()


async def main(url):
    async with websockets.connect(url, max_size=None, compression=None) as socket:
        async for frame in socket:
            messages = json.loads(frame)
            for message in messages if isinstance(messages, list) else [messages]:
                apply(message)


asyncio.run(main(sys.argv[1]))
