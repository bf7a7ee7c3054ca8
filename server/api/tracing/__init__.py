"""Calls as spans of OpenTelemetry; nothing else imports it."""
