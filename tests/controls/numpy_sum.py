# pass: numpy, with products that use its threads
import numpy as np


def solve(xs):
    square = np.ones((200, 200)) @ np.ones((200, 200))
    assert square.sum() == 200**3
    return int(np.array(xs, dtype=np.int64).sum()) if xs else 0
