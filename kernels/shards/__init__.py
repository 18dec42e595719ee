"""A vocabulary spread over ranks: each one's statistics of its columns, and how they become one."""
