"""Tests of orchestrator.data."""
