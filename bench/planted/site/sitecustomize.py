"""Python imports this file at its start when this directory is on PYTHONPATH."""

import os

from bench.planted import VARIABLE, plant

plant(os.environ[VARIABLE])
