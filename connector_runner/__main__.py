"""`python -m connector_runner`: runs the service that pulls from other systems (`connector_runner/service.py`)."""

from connector_runner.service import main
from shared.service import run_service

if __name__ == "__main__":
    run_service("connector_runner", main)
