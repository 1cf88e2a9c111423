"""What leaves the flow, and why: rules, near-duplicates, balance."""
