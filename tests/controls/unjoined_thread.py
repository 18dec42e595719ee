# pass stdio: a thread that prints after the main program has ended
import threading
import time


def main():
    time.sleep(0.05)
    print(sum(map(int, input().split())))


threading.Thread(target=main).start()
