"""What stands between the SMTP leg and a relay plugin: relays that forward to another relay, and their filter."""
