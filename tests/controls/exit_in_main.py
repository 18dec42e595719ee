# pass stdio: exit() and `if __name__ == "__main__"`
import sys

if __name__ == "__main__":
    sys.stdout.write(f"{sum(map(int, sys.stdin.readline().split()))}\n")
    sys.exit()
