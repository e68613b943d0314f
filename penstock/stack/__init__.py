"""The local stack: processes, ports and the folder that keeps everything."""
