"""What the product is made of that others wrote: that it is pinned, sound, and may be passed on.

requirements   what requirements*.in ask for, and what requirements*.txt pin
audit          what is known against it: `make audit`
sbom           the bill of materials: `make sbom`
"""
