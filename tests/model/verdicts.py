#!/usr/bin/env python3
"""What the Python model makes of the histories that the property tests draw.

    verdicts.py CLASS FIRST LAST    one line a history: class, seed, invocations over and under, anomalies over and under, digest
    verdicts.py --trace CLASS SEED  one line of JSON for each configuration, connection and frame: what the model has counted then
    verdicts.py --play              reads histories as lines of JSON from standard input; one line of JSON for each: what the
                                    model has counted at its end

The digest is the one of `tests/support/histories/verdict.rs`: equal digests are equal histories."""

import json
import sys
import zlib

import gen
import sources

CONFIGURATION = """address_dies bridge_restart burst clock drop_address filter filtered_beside name_down name_feed new_server
new_server_two quiet remove_and_add respell respell_down second_address second_process server_leaves server_restart
shuffle""".split()
MAINTENANCE = """backup bridge_restart burst correct_row delete_skill long_outage new_database other_file_and_back power_cut
power_cut_both quiet rename_skill restore restore_and_back server_restart""".split()
EVERYTHING = [name[len("op_"):] for name in gen.OPS]
CLASSES = {
    "calm-configuration": (True, CONFIGURATION),
    "hard-configuration": (False, CONFIGURATION),
    "calm-maintenance": (True, MAINTENANCE),
    "calm-all": (True, EVERYTHING),
    "hard-all": (False, EVERYTHING),
}
OPERATIONS = 12


class Digest:
    """A bridge that counts nothing and sums up what it receives."""

    def __init__(self, world):
        self.world, self.counters, self.anomalies, self.crc = world, gen.collections.Counter(), 0, 0

    def add(self, text):
        self.crc = zlib.crc32((text + "\n").encode(), self.crc)

    def configure(self, keys):
        pass

    def restart(self):
        pass

    def open(self, key):
        self.add(f"{self.world.t:.0f} open {key[1]}")

    def close(self, key):
        self.add(f"{self.world.t:.0f} close {key[1]}")

    def frame(self, key, message, at):
        listed = message["data"]["top_skills"]
        skills = "".join(f" {skill['skill_name']}={sources.entry(skill)[1]}/{skill['total_invocations']}" for skill in listed)
        self.add(f"{at:.0f} frame {key[1]}{skills} {len(message['data']['anomalies'])}")


class Trace(Digest):
    """A bridge that counts nothing and prints what the model beside it has counted."""

    def show(self, *_):
        model = self.world.b["model"]
        sources_of = {f.key[1].removeprefix("ws://"): f.src.id for f in model.feeds.values() if f.src}
        notes, model.notes = model.notes, []
        print(json.dumps({"counted": dict(sorted(model.counters.items())), "anomalies": model.anomalies, "notes": notes, "sources": sources_of}))

    configure = open = close = frame = show


def history(name, seed, observer):
    is_calm, operations = CLASSES[name]
    if is_calm:
        gen.calm()
    observers = []
    create = gen.World.__init__

    def create_observed(world, *arguments):
        create(world, *arguments)
        world.b["observer"] = observer(world)
        observers.append(world.b["observer"])

    gen.World.__init__ = create_observed
    try:
        world, errors, _ = gen.history(seed, {"model": {}}, ["op_" + operation for operation in operations], "mix", OPERATIONS)
    finally:
        gen.World.__init__ = create
    anomalies = world.b["model"].anomalies - len(world.seen_an)
    return errors["model"], (max(0, anomalies), max(0, -anomalies)), observers[0]


def play(lines):
    bridge = None
    for line in lines:
        event = json.loads(line)
        kind, key = event["event"], tuple(event.get("feed", ()))
        if kind == "begin":
            bridge = sources.Bridge()
        elif kind == "end":
            print(json.dumps({"invocations": dict(bridge.counters), "anomalies": bridge.anomalies}), flush=True)
        elif kind == "configure":
            bridge.configure([tuple(feed) for feed in event["feeds"]])
        elif kind == "start":
            bridge.restart()
            bridge.configure([tuple(feed) for feed in event["feeds"]])
        elif kind == "open":
            bridge.open(key)
        elif kind == "close":
            bridge.close(key)
        else:
            bridge.frame(key, event["message"], event["at"])


def main(arguments):
    if arguments[0] == "--play":
        play(sys.stdin)
        return
    if arguments[0] == "--trace":
        history(arguments[1], int(arguments[2]), Trace)
        return
    name, first, last = arguments[0], int(arguments[1]), int(arguments[2])
    for seed in range(first, last + 1):
        (over, under), (anomalies_over, anomalies_under), digest = history(name, seed, Digest)
        print(name, seed, over, under, anomalies_over, anomalies_under, f"{digest.crc:08x}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
