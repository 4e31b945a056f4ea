"""Set before torch is imported: waiting threads sleep, or tests beside other work take ten times as long."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
