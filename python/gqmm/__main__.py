"""Start the program gqmm, for ``python -m gqmm`` and for the command ``gqmm``. It lies in this package."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from gqmm import _gqmm


def main() -> NoReturn:
    """Replace this process by the program, which keeps the arguments, environment, standard streams and signals."""
    program = Path(str(_gqmm.__file__)).parent / "bin" / "gqmm"
    # Python ignores these two signals, and the program would inherit that. Then `gqmm inspect | head` would not end.
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        if signal.getsignal(ignored) is signal.SIG_IGN:
            signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execv(program, ["gqmm", *sys.argv[1:]])
    except FileNotFoundError:
        sys.exit(f"gqmm: this build of the package has no program ({program}): build it again with GQMM_BUILD_CLI=ON")


if __name__ == "__main__":
    main()
