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


@pytest.mark.skipif(INTERPRETED, reason="once is enough")
def test_a_fault_is_found_and_made_small(monkeypatch):
    """One that ties across rank K show: any of the tied ids in place of the lowest."""
    monkeypatch.setattr(eager, "_lowest_tied_ids", lambda x, values, ids: ids.flip(-1))
    numbers = range(200)
    found = next(text for number in numbers if (text := fuzz.report(number, "torch")))
    assert "top_ids" in found and "Case(rows=(Row(" in found
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
