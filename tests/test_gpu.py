"""The Triton kernels where they branch: selection under ties, alignment, extremes; their code.

Accuracy on every kind of row is in `test_accuracy.py`. Triton's interpreter must be chosen before
the kernels are imported, so a child process runs this file.
"""

import contextlib
import dataclasses
import importlib
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.interpreter import DEVICE, INTERPRETED, interpret

pytest.importorskip("triton")

from ssd_probe.errors import UserError
from ssd_probe.kernels import reference
from ssd_probe.kernels.gpu import pair as gpu_pair
from ssd_probe.kernels.gpu import stats as gpu
from ssd_probe.kernels.pair import pair_stats
from ssd_probe.kernels.results import COMPARISONS, PositionStats
from ssd_probe.kernels.stats import position_stats

interpreted = pytest.mark.skipif(not INTERPRETED and DEVICE == "cpu", reason="for the child")
compiled = pytest.mark.skipif(INTERPRETED, reason="for the parent")
ROOT = Path(__file__).parents[1]


@compiled
def test_in_the_interpreter():
    interpret(__file__)


@compiled
@pytest.mark.parametrize("arguments", [
    ("--targets", "sm_90", "--dtypes", "bf16", "--kernels", "scan", "finalise, K = 64", "rank",
     "pair"),
    pytest.param((), marks=pytest.mark.long(reason="compiles for every target")),
], ids=["some", "all"])  # fmt: skip
def test_compiled_code_is_within_its_budgets(arguments):
    """No spills, 128-bit loads, instructions a logit, and the whole call as modelled."""
    command = [sys.executable, ROOT / "benchmarks/aot.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "whole call, 151,936, bf16, H100: 1." in done.stdout


@compiled
@pytest.mark.long(reason="interpreted")
def test_the_first_run_on_a_gpu_does_not_end_at_a_typo(tmp_path):
    """All of `make gpu-check` but for what only a device has."""
    command = [sys.executable, "-W", "ignore", ROOT / "benchmarks/gpu_check.py", "--device", "cpu",
               "--out", tmp_path / "report.md"]  # fmt: skip
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    report = (tmp_path / "report.md").read_text()
    assert "All steps passed." in report and "_finalise" in report and "0 differ" in report


@pytest.fixture
def aot(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return runpy.run_path(str(ROOT / "benchmarks/aot.py"))


@compiled
def test_the_gate_sees(aot):
    fine = {"kernel": "scan", "target": "sm_90", "dtype": "fp32", "spills": 0, "load_bits": [128],
            "instructions_a_logit": 9.0, "from_itself": 0}  # fmt: skip
    assert aot["problems"](fine) == []
    for worse in ({"spills": 3}, {"load_bits": [32, 128]}, {"load_bits": []},
                  {"instructions_a_logit": 12.5}, {"from_itself": 1}):  # fmt: skip
        assert len(aot["problems"](fine | worse)) == 1
    loop = [(0, "LDG.E.128 R4, desc[UR4][R2.64]", None), (16, "MUFU.EX2 R1, R1", None),
            (32, "LDG.E.U16 R4, desc[UR4][R2.64]", None), (48, "@P0 BRA 0x0", 0)]  # fmt: skip
    code = importlib.import_module("compiled.code")
    assert len(code.main_loop(loop, True)) == 4 and code.target(loop[3][1]) == 0
    widths = [code.load_width(text) for _, text, _ in loop]
    assert widths == [128, 0, 16, 0] and code.load_width("LDG.E.CONSTANT R0, [R2]") == 32
    assert code.load_width("buffer_load_dwordx4 v[6:9], v29, s[12:15], 0 offen") == 128
    assert [(a, b) for a, b, _ in code.loops(loop)] == [(0, 3)]


@compiled
def test_the_gate_sees_the_whole_call(aot):
    def report(kernel, times):
        return {"kernel": kernel, "target": "sm_90", "dtype": "bf16", "times_the_floor": times,
                "with_code_around": {device: x + 0.1 for device, x in times.items()}}  # fmt: skip

    scanned = report("scan", {"H100": 1.125})
    for rest, wrong in ((0.125, 0), (0.25, 1)):  # the code around counts
        closed = report("finalise, K = 64", {"H100": rest})
        lines, found = aot["whole_calls"]([scanned, closed])
        assert f"H100: {1.125 + rest:.2f}" in lines[0] and len(found) == wrong
        assert f"[{1.225 + rest:.2f}]" in lines[0]
    assert aot["whole_calls"]([scanned, report("finalise, K = 64", {})])[1]
    assert aot["whole_calls"]([scanned]) == ([], [])
    # 2 reads of the floor, and as long issuing, on a device that issues a lane a clock.
    assert aot["times_the_floor"]((2e3, 500, 0), 1e3, 1, 1.0, 1e-3, 1) == 2
    assert aot["times_the_floor"]((1e3, 1e3, 0), 1e3, 1, 1.0, 1e-3, 1) == 2


@pytest.fixture
def launches(monkeypatch):
    """What is launched, with no GPU: (kernel, grid, what its compiled code depends on) of each."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    class Driver:
        def get_current_target(self):
            return GPUTarget("cuda", 90, 32)

    launched, binders = [], {}

    def run(kernel, *arguments, grid, warmup, **options):
        if kernel not in binders:
            binders[kernel] = kernel.create_binder()[-1]
        _, specialization, chosen = binders[kernel](*arguments, **options)
        launched.append((kernel.__name__, grid, str((specialization, chosen))))

    monkeypatch.setattr(driver, "_active", Driver(), raising=False)
    monkeypatch.setattr(JITFunction, "run", run)
    return launched


@compiled
def test_no_compilation_for_another_size_or_stride(launches):
    """And two launches a call, three with targets; the grid follows N alone."""

    def compiled_for(n, size, stride, targets=None, dtype=torch.bfloat16, **arguments):
        launches.clear()
        logits = torch.zeros(n, stride, dtype=dtype)[:, :size]
        arguments = {"top_k": 20, "temperatures": (0.7,)} | arguments
        gpu.position_stats(logits, targets=targets, **arguments)
        assert [name for name, _, _ in launches] == ["_scan", "_finalise", "_rank"][: len(launches)]
        assert all(grid[0] == n for _, grid, _ in launches)
        return [code for _, _, code in launches]

    one = torch.zeros(1, dtype=torch.int64)
    usual = compiled_for(1, 151_936, 151_936, one)
    assert len(usual) == 3 and len(compiled_for(1, 151_936, 151_936)) == 2
    for n, size, stride in ((2, 151_936, 151_936), (16, 151_936, 152_064), (3, 128_256, 128_256)):
        assert compiled_for(n, size, stride, one.repeat(n)) == usual
    assert compiled_for(1, 151_936, 151_936, one, temperatures=(1.6,)) == usual
    assert compiled_for(1, 151_936, 151_936, one, top_k=21) != usual
    assert compiled_for(2, 151_935, 151_935, one.repeat(2)) != usual  # rows off 16 bytes


@pytest.mark.parametrize("itemsize", [2, 4])
def test_geometry(itemsize):
    for size in (1, 3, 8, 17, 507, 8192, 8193, 32_768, 50_257, 151_936, 262_144, 2_000_003):
        per_group, steps, segments = gpu.geometry(size, itemsize)
        assert per_group * itemsize == 16
        groups = size // per_group
        held = steps * gpu.LANES.value
        assert (segments - 1) * held < max(groups, 1) <= segments * held
        assert segments <= 8


@interpreted
def test_more_ranks_than_the_kernels_hold():
    with pytest.raises(UserError, match="at most 128 ranks, top_k = 129; use backend='torch'"):
        position_stats(torch.zeros(1, 200), top_k=129, backend="triton")


def check(logits: torch.Tensor, top_k: int, temperatures=(0.7,)) -> PositionStats:
    """Against float64, with targets that are spread over the ids."""
    targets = torch.arange(len(logits)) * 7919 % logits.shape[1]
    want = reference.position_stats(logits, top_k=top_k, temperatures=temperatures, targets=targets)
    got = gpu.position_stats(logits, top_k, temperatures, targets)
    for field in dataclasses.fields(PositionStats):
        a, b = getattr(got, field.name), getattr(want, field.name)
        if field.name in ("top_ids", "valid", "target_rank"):
            assert torch.equal(a, b), field.name
        elif isinstance(a, torch.Tensor):
            assert a.dtype == torch.float32
            tolerance = {"rtol": 2e-6, "atol": 1e-6, "equal_nan": True}
            name = field.name
            torch.testing.assert_close(
                a.double(), b, **tolerance, msg=lambda text, name=name: f"{name}: {text}"
            )
    return got


def same_bits(a: PositionStats, b: PositionStats) -> None:
    for field in dataclasses.fields(PositionStats):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, torch.Tensor):
            assert torch.equal(left.nan_to_num(123), right.nan_to_num(123)), field.name


@interpreted
@pytest.mark.parametrize("top_k", [1, 16, 20, 64, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_selection_under_ties(dtype, top_k):
    """More lanes, or more groups, or more logits reach the K-th value than fit: bisection."""
    size = 5003
    x = torch.randn(size)
    index = torch.arange(size)
    rows = [
        x.round(),  # plateaus across rank K
        torch.zeros(size),
        torch.where(index >= size - 3, 1.0, 0.0),  # the best ids last, in the remainder too
        torch.where(index % 1024 < 8, 3.0, x),  # all ties in one lane
        torch.where(index < 2 * top_k + 9, 5.0, x),
        torch.where(index < top_k, x, -1e4),  # a finite mask
        torch.where(index // 8 % 128 == 5, 4.0 + 0.01 * x, x),  # the best in few lanes
        x.masked_fill(index % 97 > 0, -torch.inf),  # fewer than 64 finite
    ]
    check(torch.stack(rows).to(dtype), top_k)


@pytest.fixture
def fenced(monkeypatch):
    """The buffers allocated, each between bytes that nothing may change."""
    fences, fence = [], torch.full((8192,), 77, dtype=torch.uint8)

    def empty(*shape, dtype=torch.float32, device=None):
        shape = torch.Size(shape[0] if isinstance(shape[0], tuple) else shape)
        inside = torch.full((shape.numel() * dtype.itemsize,), 255, dtype=torch.uint8)  # NaN, -1
        fences.append(torch.cat([fence, inside, fence]))
        return fences[-1][len(fence) : -len(fence)].view(dtype).view(shape)

    monkeypatch.setattr(torch, "empty", empty)
    yield fences
    for memory in fences:
        assert torch.equal(memory[: len(fence)], fence)
        assert torch.equal(memory[-len(fence) :], fence)


@interpreted
@pytest.mark.parametrize(("row", "top_k", "entropy"), [
    (lambda: torch.randn(1024).repeat(16), 16, None),
    (lambda: (torch.arange(32_768) % 512).float(), 64, 5.1995),
    (lambda: torch.randn(512).bfloat16().repeat(297)[:151_936], 64, None),
    (lambda: (torch.arange(9000) % 512 < 4).float(), 20, None),
    (lambda: (torch.arange(9000) // 4 % 128 == 7).bfloat16(), 20, None),
])  # fmt: skip
def test_few_lanes_hold_many_of_the_best_groups(row, top_k, entropy, fenced):
    """Rows with the lanes' period: K and more groups reach the best group of the K-th lane."""
    stats = check(row()[None], top_k)
    assert len(fenced) >= 2
    if entropy:
        assert stats.entropy.item() == pytest.approx(entropy, abs=5e-4)


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_finite_masks(dtype):
    """What people write instead of -inf: after, before, between and nearly everywhere."""
    index = torch.arange(4096)
    for mask in {-1e4, -3e4, -1e7, -1e10, -1e15, -1e30, -2.3e38, torch.finfo(dtype).min}:
        if mask < torch.finfo(dtype).min:
            continue
        x = torch.randn(4, 4096)
        for row, masked in enumerate((index >= 8, index < 2048, index % 2 == 0, index != 4000)):
            x[row, masked] = mask
        x = x.to(dtype)
        stats = check(x, 64, (0.7, 1e-5, 1e30))
        assert stats.valid.all()
        pair = pair_stats(x, x.flip(0), top_k=8, backend="triton")
        want = reference.pair_stats(x, x.flip(0), top_k=8)
        for name in COMPARISONS:
            torch.testing.assert_close(
                getattr(pair, name).double(), getattr(want, name), rtol=1e-5, atol=2e-7
            )


@interpreted
@pytest.mark.parametrize("temperature", [1e-5, 1e-3, 0.05, 1e37, 1e40, 1e300])
def test_extreme_temperatures(temperature):
    x = 3000 * torch.randn(5, 1003)
    x[1] += 1e4
    x[2] = torch.randn(1003) - 1e4
    x[3, ::3] = -torch.inf
    x[4] *= 10
    check(torch.cat([x, x[2:] / 3000]), 16, (temperature,))
    check(x.bfloat16(), 64, (temperature,))


@interpreted
def test_targets_that_are_no_ids():
    logits = torch.randn(6, 700)
    targets = torch.tensor([-100, 5, 700, -1, 2**40, -(2**33)])
    far = logits.as_strided((6, 700), (0, 1))  # a load off the row would be off the memory
    for x in (logits, far, logits.masked_fill(logits < 9, torch.nan)):
        stats = gpu.position_stats(x, 8, (), targets)
        known = reference.position_stats(x[1:2], top_k=8, targets=targets[1:2])
        assert stats.target_rank.tolist() == [-1, known.target_rank.item(), -1, -1, -1, -1]
        expected = torch.full((6,), torch.nan)
        expected[1] = known.target_logprob.item()
        torch.testing.assert_close(stats.target_logprob, expected, equal_nan=True)


@compiled
def test_every_launch_is_on_the_device_of_the_logits(monkeypatch):
    """A tensor on another than the current device must not be read from that one."""
    current, launched = [], []

    @contextlib.contextmanager
    def device_of(tensor):
        current.append(tensor)
        yield
        current.pop()

    class Kernel:
        def __getitem__(self, grid):
            return lambda *arguments, **_: launched.append(current[-1] is arguments[0])

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    for module, name in ((gpu, "_scan"), (gpu, "_finalise"), (gpu, "_rank"), (gpu_pair, "_pair")):
        monkeypatch.setattr(module, name, Kernel())
    logits = torch.zeros(3, 40)
    stats = gpu.position_stats(logits, 4, (), torch.zeros(3, dtype=torch.int64))
    gpu_pair.pair_sums(logits, logits, stats, stats)
    assert launched == [True] * 4 and not current


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_alignment_changes_no_bit(dtype):
    """Rows that begin on 16 bytes and rows that do not; one row alone, in another order."""
    logits = (3 * torch.randn(4, 1499)).to(dtype)
    aligned = torch.full((4, 1536), torch.nan, dtype=dtype)
    aligned[:, :1499] = logits
    shifted = torch.full((4, 1537), torch.nan, dtype=dtype)
    shifted[:, 1:1500] = logits
    stats = check(logits, 8)
    targets = torch.arange(4) * 7919 % 1499
    for other in (aligned[:, :1499], shifted[:, 1:1500], logits.T.contiguous().T):
        same_bits(stats, gpu.position_stats(other, 8, (0.7,), targets))
    order = [2, 0, 3]
    part = gpu.position_stats(logits[order], 8, (0.7,), targets[order])
    whole = {name: column[order] for name, column in stats.to_columns().items()}
    same_bits(part, PositionStats.from_columns(whole))


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_full_of_nan(dtype, fenced):
    """A NaN has a place in no order: what is written and read stays within the row's own."""
    x = torch.randn(5, 5003)
    x[0, ::2], x[1, ::8], x[2, 5000:] = torch.nan, -torch.nan, torch.nan
    x[3, 1::7], x[3, ::7] = torch.inf, torch.nan
    x.view(torch.int32)[0, ::4] = 2**31 - 1
    stats = check(x.to(dtype), 16)
    assert stats.valid.tolist() == [False] * 4 + [True] and len(fenced) >= 5


@interpreted
def test_rows_that_are_not_valid_poison_no_neighbour():
    for size in (3, 4, 515):
        places = [0, size // 2, size - 1]
        logits = torch.randn(7, size)
        for row, (place, value) in enumerate(zip(places, (torch.nan, torch.inf, -torch.nan),
                                                 strict=True)):  # fmt: skip
            logits[2 * row + 1, place] = value
        stats = check(logits, 8, ())
        assert stats.valid.tolist() == [True, False] * 3 + [True]
    assert not check(torch.full((1, 515), torch.nan), 8).valid
    assert not check(torch.full((1, 515), torch.inf), 8).valid


@interpreted
def test_extremes():
    """Locks and tails keep their digits; finite logits up to the last."""
    gap = torch.tensor([70.0, 80.0]).double()
    lock = -gap.float()[:, None].repeat(1, 1003)
    lock[:, 42] = 0.0
    stats = check(lock, 4)
    rest = 1002 * (-gap).exp()  # float64 from the logits loses these
    for value, truth in (
        (stats.log_partition, rest), (stats.entropy, rest * (gap + 1)),
        (stats.varentropy, rest * gap**2), (stats.tail_log_mass.double().exp(), rest * 999 / 1002),
    ):  # fmt: skip
        torch.testing.assert_close(value.double(), truth, rtol=1e-5, atol=0)
    most = torch.finfo(torch.float32).max
    rows = torch.full((4, 1003), -most)
    rows[1, ::2] = most
    rows[2, 3] = 0.0
    rows[3, 5] = -2.9e38
    equal = torch.tensor([1003.0, 502.0, 1.0, 1.0]).double()  # logits at the largest
    for top_k in (4, 64):
        stats = gpu.position_stats(rows, top_k, (0.7,), None)
        assert stats.valid.all() and stats.top_ids[0].tolist() == list(range(top_k))
        for value in (stats.log_partition, stats.entropy, stats.log_partition_at[:, 0]):
            torch.testing.assert_close(value.double(), equal.log(), rtol=2e-6, atol=0)
        assert stats.tail_probability(top_k)[0].item() == pytest.approx(1 - top_k / 1003, rel=1e-5)


@interpreted
def test_nothing_to_do():
    stats = gpu.position_stats(torch.empty(0, 300), 8, (2.0,), torch.empty(0, dtype=torch.long))
    assert len(stats) == 0 and stats.log_partition_at.shape == (0, 1)
    assert stats.target_rank is not None and stats.target_rank.shape == (0,)
    assert gpu.position_stats(torch.zeros(1, 3), 1, (), None).target_rank is None
