"""How much longer than on an idle machine a wait of the tests may last before it fails."""

PATIENCE = 3
"""Costs nothing while all is well. Each wait names what it takes at worst on an idle machine; the
suite also runs beside other work, and a bound that is near the usual time would fail by luck."""
