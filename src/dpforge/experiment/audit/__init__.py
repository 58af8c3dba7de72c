"""Audits: lower bounds on epsilon from canaries that go through the code of a configuration."""
