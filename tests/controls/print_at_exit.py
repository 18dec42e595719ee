# pass stdio: output kept until atexit, as contest programs do
import atexit
import io
import sys

buffer = io.StringIO()
sys.stdout = buffer
atexit.register(lambda: sys.__stdout__.write(buffer.getvalue()))
print(sum(map(int, input().split())))
