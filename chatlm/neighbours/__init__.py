"""Whoever else has a say in a training: other trainers, launchers, ranks, and people.

`lock` keeps two trainers out of one run folder, `signals` turns SIGTERM, Ctrl-C and the death of a
launcher into a polite end, `launcher` knows who started this process, `processes` tells processes
of this machine apart, and `watchdog` notices ranks that died or hang. No torch is needed for any of
them until several ranks meet.
"""
