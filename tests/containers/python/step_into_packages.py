"""Steps over the `__init__` files that import what a feed does not need, as tests/programs/peer.py does."""

import importlib.machinery
import importlib.util
import sys

SITE = "/opt/peers/site"

sys.path[:0] = [SITE, "/opt/peers/libraries"]
for name in ["mcp_common", "mcp_common.websocket", "session_buddy.realtime"]:
    spec = importlib.machinery.ModuleSpec(name, loader=None, is_package=True)
    spec.submodule_search_locations = [f"{SITE}/{name.replace('.', '/')}"]
    sys.modules[name] = importlib.util.module_from_spec(spec)
