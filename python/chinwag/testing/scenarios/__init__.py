"""Scenarios: behaviour as data, run through the public API on a virtual clock.

`python -m chinwag.testing.scenarios FILE.json` runs a file. `format` reads it, `features` says what
it needs, `mapping` turns its terms into settings, `play` makes the calls happen, `expect` and
`words` compare them with what the file expects.
"""
