"""The paper's toy machine and others like it: made or read, solved exactly, as plot data."""
