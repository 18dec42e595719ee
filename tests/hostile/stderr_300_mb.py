# pass|timeout stdio: 300 MB to stderr
import sys

for _ in range(300):
    sys.stderr.write("x" * 1_000_000)
print(sum(map(int, input().split())))
