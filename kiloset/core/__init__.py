"""The contracts every room shares: table, ledger, models, configuration, run folder, errors."""
