"""dlt copies the table `narrow` from one Postgres into another: SOURCE TARGET BACKEND FOLDER. Prints rows, seconds and MB. Runs in an environment of its own."""

import resource
import sys
import time

import dlt
from dlt.sources.sql_database import sql_table

source, target, backend, folder = sys.argv[1:]
table = sql_table(source.replace("postgresql://", "postgresql+psycopg2://"), table="narrow", backend=backend, chunk_size=50_000)
pipeline = dlt.pipeline(
    f"bench_{backend}", destination=dlt.destinations.postgres(target), dataset_name=f"dlt_{backend}", pipelines_dir=folder
)
began = time.monotonic()
pipeline.run(table, write_disposition="append")
seconds = time.monotonic() - began
with pipeline.sql_client() as client:
    rows = client.execute_sql("SELECT count(*) FROM narrow")[0][0]
print("\n", rows, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
