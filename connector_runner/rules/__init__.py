"""What happens to rows before they leave the runner: `where`, the choice of columns, privacy rules. Pure.

    sifting.py   one stream's rows through all three     conditions.py, on_columns.py   `where` on objects, and on Arrow columns
    pruning.py   what is not selected is taken away      hiding.py                      privacy rules on objects, and on Arrow columns
    values.py    values of Arrow columns as JSON has them

Each rule gives the same for a row of JSON and for the same row in columns.
"""
