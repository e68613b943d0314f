"""`python -m functions_runtime`: runs the functions' service (`functions_runtime/service.py`)."""

from functions_runtime.service import main
from shared.service import run_service

if __name__ == "__main__":
    run_service("functions_runtime", main)
