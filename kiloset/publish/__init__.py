"""What leaves the machine: data card, export, push to the hub."""
