"""How long a kernel takes of the time that reading the row once takes: a model, not a measurement.

Reading is at the data sheet's bandwidth. A kernel takes the larger of reading, issuing (half of the
data sheet's issue rate) and exponentials (16 lanes a clock and multiprocessor); 1.00 is the floor.
That half of the issue rate is reached, that 12 rows a multiprocessor hide the latencies of
`_finalise`, and what the caches hold, only a GPU can tell.
"""

from compiled.code import Code, is_exponential, issued, load_width, loops

from ssd_probe.kernels.gpu import reread, scan

# Multiprocessors, GHz (boost), TB/s, lanes issued a clock and multiprocessor; vendors' data sheets.
DEVICES = {
    "sm_80": {"A100": (108, 1.41, 2.04, 128)},
    "sm_90": {"H100": (132, 1.755, 3.35, 128), "H200": (132, 1.755, 4.8, 128)},
    "sm_100": {"B200": (148, 1.85, 8.0, 128)},
    "sm_103": {"B300": (148, 1.92, 8.0, 128)},
    "sm_120": {"RTX 5090": (170, 2.41, 1.79, 128)},
    "gfx942": {"MI300X": (304, 2.1, 5.3, 64)},
}  # the others have no budget
ISSUE, EXPONENTIALS = 0.5, 16
# Of `_finalise` at K = 64 and V = 151,936, means over 60 rows (normal, Zipf-like heads, locks): 6
# to 16 steps of the lanes' selection by value in bf16, 5 to 20 in fp32; 0 to 9 by id. Of five such
# rows in the interpreter: 64 to 70 logits ranked; never a second pass over lanes or candidates.
BY_VALUE = {2: 12, 4: 14}
BY_ID, RANKED = 2, 68


def scratch(vocabulary: int, itemsize: int) -> int:
    """Bytes a row that `_scan` leaves to `_finalise`."""
    return scan.geometry(vocabulary, itemsize)[2] * scan.LANES.value * 20


def times_the_floor(
    row: tuple[float, float, float], floor: float, cores: int, ghz: float, tb: float, lanes: int
) -> float:
    """The time of a row's bytes, instructions and exponentials over that of `floor` bytes."""
    read, instructions, exponentials = row
    clocks = cores * ghz * 1e9
    issue = instructions / (clocks * lanes * ISSUE)
    time = max(read / (tb * 1e12), issue, exponentials / (clocks * EXPONENTIALS))
    return time / (floor / (tb * 1e12))


def scanned(
    code: Code, vocabulary: int, itemsize: int, around: bool = False
) -> tuple[float, float, float] | None:
    """Bytes, instructions and exponentials of one row in `_scan`: its loops, or all of its code.

    In order: 8 groups of a lane at once, 4, and one (the last, masked); then the same, longer, for
    logits that fused sums can not hold. None where the code has other loops.
    """
    found = [loop for loop in loops(code) if any(map(is_exponential, loop[2]))]
    if len(found) != 6:
        return None
    groups = vocabulary * itemsize // 16
    _, steps, segments = scan.geometry(vocabulary, itemsize)
    trips, lanes = [0, 0, 0], scan.LANES.value
    for begin in range(0, steps * segments, steps):
        stop = min(begin + steps, -(-groups // lanes))
        whole = max(min(stop, groups // lanes) - begin, 0)
        half = scan.STEPS // 2
        trips[0] += whole // scan.STEPS
        trips[1] += whole // half - whole // scan.STEPS * 2
        trips[2] += stop - begin - whole // half * half
    ends = found[2][1] + 1, found[-1][1] + 1
    straight = [text for i, (_, text, _) in enumerate(code)
                if (i < ends[0] or i >= ends[1]) and not text.startswith("NOP")
                and not any(first <= i <= last for first, last, _ in found)]  # fmt: skip
    parts = [*zip(trips, (text for _, _, text in found))]  # noqa: B905 (the first three)
    if around:
        parts.append((segments, straight))
    return (
        vocabulary * itemsize + scratch(vocabulary, itemsize),
        lanes * sum(n * issued(text) for n, text in parts),
        lanes * sum(n * sum(map(is_exponential, text)) for n, text in parts),
    )


def finalised(
    code: Code, vocabulary: int, itemsize: int, warp: int
) -> tuple[float, float, float] | None:
    """Bytes, instructions and exponentials of one row in `_finalise` (K = 64, a warp of threads).

    Its loops in order: the lanes' selection by value and by id; the lanes read again; surveys and
    a second reading, for rows that are rare; the candidates kept, and again for rare rows; ranked,
    unrolled by 4, and what is left; the lanes left, two segments at a time. None where the code has
    another order.
    """
    found = loops(code)
    reads = [i for i, (_, _, text) in enumerate(found) if max(map(load_width, text)) >= 128]
    again = [i for i in reads if sum(map(is_exponential, found[i][2])) > 8]
    if len(again) != 2 or again[0] != 2 or len(found) < again[1] + 7:
        return None
    lanes, (_, steps, segments) = 64, scan.geometry(vocabulary, itemsize)
    kept, ranked = again[1] + 1, again[1] + 5
    trips = [0] * len(found)
    trips[:2] = BY_VALUE[itemsize], BY_ID
    trips[2] = -(-lanes // warp) * -(-steps // reread.AGAIN)
    trips[kept], trips[ranked] = -(-(RANKED + 1) // warp), RANKED // 4
    trips[-1] = -(-segments // 2)
    rare = range(found[2][1] + 1, found[again[1]][1] + 1)
    inside = {i for first, last, _ in found for i in range(first, last + 1)}
    straight = [text for i, (_, text, _) in enumerate(code) if i not in inside and i not in rare]
    parts = [(1, straight), *zip(trips, (text for _, _, text in found), strict=True)]
    sectors = lanes * steps * 32  # of 16 bytes, 32 are brought
    return (
        scratch(vocabulary, itemsize) + sectors,
        warp * sum(n * issued(text) for n, text in parts),
        warp * sum(n * sum(map(is_exponential, text)) for n, text in parts),
    )
