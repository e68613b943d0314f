"""Sends spans, logs and metrics to an OpenTelemetry collector, by OTLP over HTTP or gRPC."""
