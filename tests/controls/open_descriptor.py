# pass stdio: open(0), and os.write(1)
import os

os.write(1, str(sum(map(int, open(0).read().split()))).encode())
