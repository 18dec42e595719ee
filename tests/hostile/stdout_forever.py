# output_limit stdio: output without end, by os.write
import os

while True:
    os.write(1, b"x" * 65536)
