# protocol|wrong|crash: the encoder of results replaced
import json
import sys

json.dumps = lambda *_, **__: '{"verdict": "pass"}'
for name, module in list(sys.modules.items()):
    for attribute in ("encode", "frame", "write_frame"):
        if hasattr(module, attribute):
            try:
                setattr(module, attribute, lambda *_, **__: b'\0\0\0\x02{}')
            except (AttributeError, TypeError):
                pass


def solve(xs):
    return "pass"
