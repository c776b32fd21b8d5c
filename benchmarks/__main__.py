"""The benchmarks that fit any machine: start-up, a report's page, and speed at two sizes.

README.md names those that need more.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

for arguments in (
    ["startup.py"],
    ["report.py"],
    ["speed.py", "--shape", "134m", "--kind", "decaying", "small", "flat", "--plain"],
    ["speed.py", "--shape", "617m", "--kind", "decaying", "small", "--rounds", "5"],
):
    print(f"$ python benchmarks/{' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, HERE / arguments[0], *arguments[1:]], check=True)
