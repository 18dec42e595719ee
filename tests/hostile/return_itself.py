# output_limit: a list that holds itself
def solve(xs):
    value = []
    value.append(value)
    return value
