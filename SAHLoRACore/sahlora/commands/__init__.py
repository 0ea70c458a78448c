"""The commands of ``sahlora``, one module each.

A command module has ``SUMMARY`` (one line), ``EXAMPLE`` (a command line that works), ``configure(parser)``,
which declares its arguments, and ``run(args, progress)``, which does the work and reports a result. Heavy
imports belong inside ``run``, so that ``--help`` answers at once.
"""
