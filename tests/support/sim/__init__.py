"""A seeded world in one thread, on virtual time: the real coordinator and worker code on a
simulated broker, with faults, and oracles that share no code with the core.

``python -m support.sim --seed N --story`` tells what happened in one world.
"""
