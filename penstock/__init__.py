"""The composition root: the `penstock` command, the local stack, plan and apply. Nothing imports it.

`cli.py` puts the command together from `commands/`, one file a group; these only read options and print. What they call stands
beside: `stack.py` supervises the local stack, `plan.py` compares projects, `status.py`, `dead.py`, `send.py` do what their
names say, and can be tested without a terminal.
"""
