"""Some hundred random cases a backend, and that the fuzz would see a fault and make it small."""

import pytest
import torch

from ssd_probe.kernels import eager
from tests import fuzz, interpreter
from tests.interpreter import DEVICE, INTERPRETED, interpret

BACKENDS = interpreter.backends() + ([] if INTERPRETED else ["reference"])
CASES = 20 if INTERPRETED else 600


@pytest.mark.slow(reason="hundreds of cases")
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_case_differs(backend):
    found = [text for number in range(CASES) if (text := fuzz.report(number, backend, DEVICE))]
    assert not found, "\n".join(found)


@pytest.mark.long(reason="interpreted")
@pytest.mark.skipif(INTERPRETED, reason="this is the child")
def test_triton_in_its_interpreter():
    interpret(__file__, "-k", "differs")


@pytest.mark.skipif(INTERPRETED, reason="a head has one way through Triton")
@pytest.mark.parametrize("seed", range(3, 400, 12))
def test_many_equal_logits_some_nats_below_the_largest(seed):
    """Float32 sums over 1,024 of them lost more of the varentropy than the tolerance."""
    rows = (fuzz.Row(seed=seed), fuzz.Row(seed=seed + 1000))
    for width in (6, 7):
        case = fuzz.Case(rows=rows, size=4095, top_k=1, width=width)
        assert not fuzz.faults(case, "cpu")


@pytest.mark.skipif(INTERPRETED, reason="once is enough")
def test_a_fault_is_found_and_made_small(monkeypatch):
    """One that ties across rank K show: any of the tied ids in place of the lowest."""
    monkeypatch.setattr(eager, "_lowest_tied_ids", lambda x, values, ids: ids.flip(-1))
    reports = (fuzz.report(number, "torch") for number in range(200))
    found = next(text for text in reports if "top_ids of " in text)  # not what follows from ids
    assert "Case(rows=(Row(" in found
    source = found.partition("print(*faults(")[2].partition(", 'torch', 'cpu')")[0]
    case = eval(source, vars(fuzz))
    assert len(case.rows) == 1 and case.size <= 8 and not case.temperatures
    assert fuzz.faults(case, "torch")


def test_cases_are_their_numbers():
    assert fuzz.draw(17) == fuzz.draw(17) != fuzz.draw(18)
    for number in range(5):
        case = fuzz.draw(number)
        first, again = ([row.build(case.size) for row in case.rows] for _ in range(2))
        for a, b in zip(first, again, strict=True):
            assert torch.equal(a.view(torch.int32), b.view(torch.int32))
