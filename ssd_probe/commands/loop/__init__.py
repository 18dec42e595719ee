"""The whole loop of self-distillation, declared in one file: sample, train, test, probe, draw."""
