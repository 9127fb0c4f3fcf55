"""Which weights each route should have, and why. Pure: no I/O, no clock, no chance.

TO BE WRITTEN: `decide(topology, seen, request, now) -> Plan`.
"""

FEATURE = "failover"
