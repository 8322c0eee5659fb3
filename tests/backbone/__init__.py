"""Tests of methods/backbone."""
