"""Files in and out: JSON Lines, records, locks, and parts that survive a kill."""
