"""Makes Session-Buddy's packages importable on a Python that they do not support.

They ask for Python 3.14. The modules that a feed needs run from 3.11 on, but for the `__init__` files around them, which import
the rest of the packages; those are stepped over, and nothing else is.
"""

import importlib.machinery
import importlib.util
import pathlib
import sys

STEPPED_OVER = ["mcp_common", "mcp_common.websocket", "session_buddy.realtime"]


def step_into_packages(site, *further):
    """Import from the directory `site`, which has the packages, and from `further` ones."""
    sys.path[:0] = [str(directory) for directory in (site, *further)]
    for name in STEPPED_OVER:
        spec = importlib.machinery.ModuleSpec(name, loader=None, is_package=True)
        spec.submodule_search_locations = [str(pathlib.Path(site) / name.replace(".", "/"))]
        sys.modules[name] = importlib.util.module_from_spec(spec)
