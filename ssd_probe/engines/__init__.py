"""What draws samples, behind one small interface (`core.requests.Engine`): one file an engine."""
