"""The benchmarks share events, senders, meters, stacks and bare ceilings. No module here is a benchmark."""
