# error: processes by multiprocessing
import multiprocessing


def work():
    while True:
        pass


def solve(xs):
    workers = [multiprocessing.Process(target=work) for _ in range(50)]
    for worker in workers:
        worker.start()
    return sum(xs)
