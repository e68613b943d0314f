"""The dashboards for Grafana as plain data. `python -m deploy.dashboards` writes the files that Grafana reads, `deploy/grafana/dashboards/*.json`.

`panel.py` says what a panel and a dashboard are, `promql.py` has the queries' common forms, `grafana.py` writes JSON; each further module is one
dashboard. Change these, never the JSON: a test holds both equal.
"""
