"""What the server that forks workers imports; it alone may import this module.

Python has such a server ignore Ctrl-C only once it has imported everything, which takes seconds.
"""

import os
import signal

# A terminal sends Ctrl-C to it too: it ends then, but without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)
_driver = os.getppid()

import warmstart.launch.cost  # noqa: E402
import warmstart.launch.work  # noqa: E402
import warmstart.run.together  # noqa: E402, F401

if os.getppid() != _driver:  # gone meanwhile: the workers that it asked for would find nothing
    os._exit(0)
