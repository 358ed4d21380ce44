"""The monitor: measures GPUs, processes, histories and pictures; touches no process and gives no verdict."""
