"""Pure logic: no I/O, no clock, no randomness but what is passed in. Imports nothing of ours."""
