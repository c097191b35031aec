"""Checks of documentation, packaging and third-party packages, and the programs for the latter.

requirements   the requirements in requirements*.in, and the pins in requirements*.txt
audit          known vulnerabilities: `make audit`
sbom           the bill of materials: `make sbom`
"""
