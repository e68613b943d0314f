"""The script of browsers: its modules in `script/`, the package folder for npm, and the code that makes the served files of them."""
