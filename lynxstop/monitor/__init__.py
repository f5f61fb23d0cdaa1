"""Monitoring: does the promise still hold on live traffic? Audited losses in, alarms out."""
