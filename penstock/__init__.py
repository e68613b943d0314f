"""The composition root: the `penstock` command, the local stack, plan and apply. Nothing imports it.

`command/cli.py` puts the command together from `command/verbs/`, one file a group; these read options and print. What they call
stands in `control/` and knows no terminal. `stack/` supervises the local stack.
"""
