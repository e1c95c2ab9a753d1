"""
Whether rollouts are wasted on groups without signal: the bench itself is `simulated/groups.py`.

This file has the name of a module of the standard library, and where a bench runs, its folder is searched
first. So it runs the bench if it is called, and hands over the standard module if it is imported.
"""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

if __name__ == "__main__":
    from simulated.groups import main

    sys.exit(main())

spec = PathFinder.find_spec("signal", [os.path.dirname(os.__file__)])
assert spec and spec.loader, "the standard library has a module signal"
sys.modules["signal"] = standard = module_from_spec(spec)
spec.loader.exec_module(standard)
