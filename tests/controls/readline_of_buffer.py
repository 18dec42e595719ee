# pass stdio: repeated sys.stdin.buffer.readline
import sys

total = 0
while line := sys.stdin.buffer.readline():
    total += sum(map(int, line.split()))
print(total)
