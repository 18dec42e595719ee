# pass stdio: os.read(0)
import os

data = b""
while chunk := os.read(0, 7):
    data += chunk
print(sum(map(int, data.split())))
