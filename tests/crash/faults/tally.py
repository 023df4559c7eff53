"""What was tried, and how it ended."""

SHOWN = 12  # violations that are shown of each command
NUMBERS = ("faults", "refused", "withstood", "died", "violations", "missed")


class Tally:
    def __init__(self):
        for name in NUMBERS:
            setattr(self, name, 0)
        self.pairs, self.ways = set(), set()

    def count(self, where, fault):
        self.faults += 1
        if fault.call == "allocation":
            self.ways.add((where, fault.second, fault.nth))
        else:
            self.pairs.add((fault.call, fault.kind))

    def violation(self, text):
        self.violations += 1
        if self.violations <= SHOWN:
            print(f"VIOLATION: {text.strip()}", flush=True)

    def add(self, other):
        for name in NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.pairs |= other.pairs
        self.ways |= other.ways

    def line(self, name):
        return (f"{name:33} {len(self.pairs):4} (call, error), {len(self.ways):4} allocations, "
                f"{self.faults:5} faults: refused {self.refused}, withstood {self.withstood}, "
                f"died in libcrypto {self.died}, violations {self.violations}")
