# error: /tmp closed to those who come next
import os

os.mkdir("/tmp/d")
os.chmod("/tmp/d", 0)
