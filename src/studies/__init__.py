"""What sources claim and report, beside what is measured and counted here."""
