# output_limit stdio: 300 MB to stdout
import sys

for _ in range(300):
    sys.stdout.write("x" * 1_000_000)
