#!/usr/bin/env python3
"""Reads an exposition from standard input with the official parser of its format, text or openmetrics, and prints as JSON
what it holds: a list of [family, type, [[sample, labels, value, exemplar], ...]]."""

import json
import sys

from prometheus_client import parser as text
from prometheus_client.openmetrics import parser as openmetrics

PARSERS = {"text": text, "openmetrics": openmetrics}


def exemplar(sample):
    e = sample.exemplar
    return None if e is None else [e.labels, e.value, float(e.timestamp)]


families = PARSERS[sys.argv[1]].text_string_to_metric_families(sys.stdin.read())
json.dump([[f.name, f.type, [[s.name, s.labels, str(s.value), exemplar(s)] for s in f.samples]] for f in families], sys.stdout)
