"""Every name of Feast that it does not document, and that this package relies on, with the reason.

A new version of Feast is tried against these modules first. Each says in which version its names
were seen, and why they are needed.
"""
