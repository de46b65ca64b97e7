"""``score profile`` from a checkout: see :mod:`score.app.profile`."""

import importlib.util
import sys
import sysconfig
from pathlib import Path

if __name__ == "__main__":
    from score.app.profile import main

    main()
else:  # cProfile, imported by a script of this folder, found this file before the standard library's of that name
    spec = importlib.util.spec_from_file_location(__name__, Path(sysconfig.get_path("stdlib")) / "profile.py")
    assert spec is not None and spec.loader is not None
    sys.modules[__name__] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[__name__])
