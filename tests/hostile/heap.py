# wrong: any integer of the heap that could be the sum, from every container that gc knows
import gc


def solve(xs):
    wanted = sum(xs)
    del xs
    for item in gc.get_objects():
        try:
            values = item.values() if isinstance(item, dict) else item
            if isinstance(values, (list, tuple, set)) and len(values) < 10_000:
                for value in values:
                    if type(value) is int and value == wanted:
                        return value
        except Exception:
            continue
    return None
