"""Every name of Feast that it does not document, and that this package relies on, with the reason.

A new version of Feast is tried against these modules first. All names were seen in Feast 0.67.
"""
