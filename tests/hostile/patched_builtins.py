# wrong|crash: builtins replaced
import builtins

builtins.all = builtins.any = lambda *_: True
builtins.AssertionError = type("Never", (Exception,), {})
builtins.sum = lambda *_: -1
builtins.isinstance = lambda *_: True


def solve(xs):
    return sum(xs)
