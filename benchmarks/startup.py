"""Wall time of `safelox --help` and of `import safelox`, each the median of a few runs.

python benchmarks/startup.py
"""

import statistics
import subprocess
import sys
import time

RUNS = 9


def main() -> None:
    for name, command in {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import safelox": [sys.executable, "-c", "import safelox"],
        "safelox --help": [sys.executable, "-m", "safelox", "--help"],
    }.items():
        seconds = []
        for _ in range(RUNS):
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - started)
        print(f"{name:16} {statistics.median(seconds):.3f} s  ({min(seconds):.3f} to {max(seconds):.3f}, n = {RUNS})")


if __name__ == "__main__":
    main()
