"""Which tokens decodings keep: of many positions, under many rules."""
