"""A training as the machine runs it: devices, precision, memory, processes, the loop, what must stay finite."""
