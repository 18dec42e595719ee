# pass stdio: sys.exit after printing
import sys

print(sum(map(int, sys.stdin.read().split())))
sys.exit(0)
